"""What the command line prints for people: tables and lines, with colours on terminals only."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.contracts import durations
from shared.telemetry.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {
    "alive": "green",
    "success": "green",
    "silent": "yellow",
    "running": "cyan",
    "unknown": "dim",
    "paused": "dim",
    "down": "red",
    "failure": "red",
    "overdue": "red",
    "missed": "red",
    "dead": "bold red",
}


WIDEST = 60
"""Characters of a column that the last one makes room for."""


def say(line: str, *, err: bool = False) -> None:
    """Print one line, in which nothing that others wrote acts on the terminal."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{visible(line)}\n")


def console() -> "Console":
    """As wide as the terminal; as what is printed, where there is none."""
    from rich.console import Console

    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=10_000)


def show(headings: Sequence[str], rows: Iterable[Sequence[object]], *, nothing: str) -> None:
    """A table. `nothing`: what is said if there are no rows. The last column is cut at the edge."""
    from rich.table import Table
    from rich.text import Text

    written = [[("" if cell is None else visible(str(cell))) for cell in row] for row in rows]
    if not written:
        say(nothing)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, heading in enumerate(headings):
        is_last = place == len(headings) - 1
        widest = max(len(heading), *(len(row[place]) for row in written))
        table.add_column(
            heading.upper(),
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if is_last else min(widest, WIDEST),
        )
    for row in written:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    out = console()
    with out.capture() as captured:
        out.print(table)
    out.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def age(at: Any, *, now: datetime | None = None) -> str:
    """How long ago a moment of the API was, or in how long it will be; `-` for none."""
    if not at:
        return "-"
    try:
        passed = (now or datetime.now(UTC)) - datetime.fromisoformat(str(at))
    except (ValueError, TypeError):
        return str(at)
    if passed.total_seconds() < -1:
        return f"in {durations.spoken(-passed)}"
    return durations.spoken(passed)


def instant(at: Any) -> str:
    """A moment of the API to the second, in UTC; as it is if it is none."""
    try:
        return datetime.fromisoformat(str(at)).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else "-"
    except ValueError:
        return str(at)


def took(seconds: Any) -> str:
    return durations.spoken_seconds(seconds) if isinstance(seconds, int | float) else "-"
