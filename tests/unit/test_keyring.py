"""The keys of sessions and badges, and the sessions that were ended."""

from services.api.http.keyring import MAX_ENDED, Keys


def test_an_ended_session_is_remembered_until_it_would_have_run_out() -> None:
    keys = Keys().without("a", until=100, now=50).without("b", until=150, now=99)
    assert keys.ended == {"a": 100, "b": 150}
    assert keys.without("c", until=200, now=100).ended == {"b": 150, "c": 200}


def test_when_too_many_were_ended_all_are() -> None:
    keys = Keys(ended={str(n): 100 for n in range(MAX_ENDED)})
    fuller = keys.without("a", until=100, now=50)
    assert fuller.ended == {}
    assert fuller.session != keys.session
    assert fuller.badge == keys.badge


def test_keys_are_random() -> None:
    assert len({Keys().session, Keys().badge, Keys().session, Keys().badge}) == 4
