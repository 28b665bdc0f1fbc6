import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messaging.reader import Delivered, delivered

FIRST = b"$JS.ACK.SERVICES.c1.1.17.3.1795754804038901969.4"
SECOND = b"$JS.ACK._.szMpdrwD.SERVICES.c1.1.17.3.1795754804038901969.4"
PLACE = Delivered(17, 3, 1795754804038901, 4)


@pytest.mark.parametrize(
    "reply",
    [FIRST, SECOND, SECOND + b".x7Q", SECOND.replace(b"_", b"hub", 1), SECOND + b".5.6.7"],
)
def test_a_place_is_found_in_every_form(reply: bytes) -> None:
    assert delivered(reply) == PLACE


@pytest.mark.parametrize(
    "reply", [b"", b"_INBOX.a.b", b"$JS.FC._.h.SERVICES.c1.x", b"$JS.ACKS.a.b.1.2.3.4.5"]
)
def test_what_is_no_message_of_a_stream_is_left_alone(reply: bytes) -> None:
    assert delivered(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.",
        FIRST.rpartition(b".")[0],
        FIRST + b".9",  # ten tokens: neither form
        FIRST.replace(b"17", b"x"),
        SECOND.replace(b"17", b""),
        SECOND.replace(b".4", b".\xff"),
    ],
)
def test_what_is_not_from_the_broker_raises(reply: bytes) -> None:
    with pytest.raises(ValueError, match=r"neither form|invalid literal"):
        delivered(reply)


TOKEN = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
NUMBER = st.integers(0, 2**63)


@given(
    names=st.tuples(TOKEN, TOKEN, TOKEN, TOKEN),
    numbers=st.tuples(*[NUMBER] * 5),
    more=st.lists(TOKEN, max_size=3),
)
def test_both_forms_say_the_same(names: tuple[str, ...], numbers: tuple[int, ...], more: list[str]) -> None:
    domain, account, stream, consumer = names
    rest = [stream, consumer, *map(str, numbers)]
    first = ".".join(["$JS.ACK", *rest]).encode()
    second = ".".join(["$JS.ACK", domain, account, *rest, *more]).encode()
    assert (
        delivered(first)
        == delivered(second)
        == Delivered(numbers[1], numbers[2], numbers[3] // 1000, numbers[4])
    )
