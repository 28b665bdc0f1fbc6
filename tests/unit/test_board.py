"""Who may listen to the events, and for whom there is always room."""

from contextlib import ExitStack

from services.api.queries.event_hub import MAX_ANONYMOUS, MAX_LISTENERS, MAX_PER_CLIENT, EventHub


def test_strangers_leave_room_for_those_with_a_token() -> None:
    hub, known = EventHub(), None
    with ExitStack() as listening:
        for n in range(MAX_ANONYMOUS):
            address = f"203.0.113.{n // MAX_PER_CLIENT}"
            assert not hub.full(address)
            listening.enter_context(hub.listening(address))
        assert hub.full("198.51.100.1")
        for _ in range(MAX_LISTENERS - MAX_ANONYMOUS):
            assert not hub.full(known)
            listening.enter_context(hub.listening(known))
        assert hub.full(known)
    assert not hub.full("198.51.100.1")


def test_a_stranger_has_so_many_listeners_and_a_neighbour_with_a_token_its_own() -> None:
    hub = EventHub()
    with ExitStack() as listening:
        for _ in range(MAX_PER_CLIENT):
            listening.enter_context(hub.listening("203.0.113.1"))
        assert [hub.full(it) for it in ("203.0.113.1", "203.0.113.2", None)] == [True, False, False]
