import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.http import badges
from shared.contracts.events import Status


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "100%"), (0.99999, "99.99%"), (0.9, "90%"), (0.0, "0%"), (0.123456, "12.34%"), (None, "no data")],
)
def test_an_uptime_is_never_rounded_up(share: float | None, shown: str) -> None:
    assert f"<title>web 7d: {shown}</title>" in badges.uptime("web", "7d", share)


def test_a_colour_tells_how_good_it_is() -> None:
    colours = [badges.COLOURS[name] for name in ("alive", "silent", "down", "unknown")]
    for share, colour in zip((0.99, 0.9899, 0.8999, None), colours, strict=True):
        assert f'fill="{colour}"' in badges.uptime("web", "24h", share)


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=128))
def test_every_name_makes_a_picture_as_wide_as_its_parts(name: str) -> None:
    for value in [*Status, "paused"]:
        picture = ET.fromstring(badges.status(name, value))
        whole, left, right = picture, *picture.findall("{*}rect")
        assert int(whole.attrib["width"]) == int(left.attrib["width"]) + int(right.attrib["width"])
        assert [it.text or "" for it in picture.findall(".//{*}text")] == [name, value]
        assert picture.attrib["aria-label"] == f"{name}: {value}"
