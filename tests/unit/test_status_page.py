"""What the public status page says above its services."""

import pytest

from services.api.dashboard.rendering import templates
from shared.contracts.events import Status

UNKNOWN, ALIVE, SILENT, DOWN, DEAD = Status


@pytest.mark.parametrize(
    ("statuses", "title"),
    [
        ([], "Nothing to show yet"),
        ([UNKNOWN, UNKNOWN], "Nothing was heard yet"),
        ([UNKNOWN, ALIVE], "Everything that was heard is up"),
        ([ALIVE, SILENT], "Everything is up"),
        ([UNKNOWN, DOWN, DEAD, ALIVE], "2 of 4 down"),
    ],
)
def test_who_was_never_heard_is_not_called_up(statuses: list[Status], title: str) -> None:
    assert str(templates.get_template("parts.html").module.status_title(statuses)) == title
