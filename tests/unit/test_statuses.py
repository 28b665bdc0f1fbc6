"""A status is listed in several places: each of them has all, so a new one is missed nowhere."""

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from services.api.dashboard import rendering
from services.api.http import badges
from services.api.http.models import Seconds
from services.api.projections.documents import PROBLEMS_FIRST
from services.monitor.store import snapshot_codec
from shared.contracts.events import Status
from shared.domain import digest, timeline

CSS = (Path(rendering.__file__).parent / "static" / "page.css").read_text()
TABLES: dict[str, Collection[str]] = {
    "the order of lists": set(PROBLEMS_FIRST) - {timeline.PAUSED},
    "the order of pages": set(rendering.ORDER) - {timeline.PAUSED},
    "shapes on pages": rendering.SHAPES.keys() - {timeline.PAUSED},
    "marks in messages": digest.MARKS,
    "colours of badges": badges.COLOURS.keys() - {timeline.PAUSED},
    "what counts for uptime": (*timeline.UP, *timeline.NOT_UP, *timeline.NOT_MEASURED),
    "seconds that the API answers with": Seconds.model_fields.keys() - {timeline.PAUSED, timeline.UNOBSERVED},
    "places in a snapshot": snapshot_codec._STATUSES,
    "colours of pages": set(re.findall(r"--([a-z]+):", CSS)) & set(Status),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_every_status(table: str) -> None:
    assert sorted(TABLES[table]) == sorted(Status)


def test_the_places_in_a_snapshot_stay() -> None:
    assert snapshot_codec._STATUSES[:5] == ["unknown", "alive", "silent", "down", "dead"]
