"""The dashboard's page, made on the server: it works without scripts, and loads nothing from elsewhere."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader

from services.api.models import Service
from shared.durations import spoken
from shared.events import Status

SHAPES = {
    Status.DOWN: "▼",
    Status.SILENT: "◆",
    Status.DEAD: "✕",
    Status.UNKNOWN: "○",
    Status.ALIVE: "●",
}
"""A shape per status, because colour alone tells some people nothing."""

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
)


def render(
    services: Iterable[Service], counts: Mapping[Status, int], now: datetime, ingest_url: str
) -> HTMLResponse:
    """`services` come problems first; `counts` in the same order."""

    def ago(moment: datetime) -> str:
        return spoken(now - moment)

    html = _templates.get_template("services.html").render(
        groups=[(status, list(group)) for status, group in groupby(services, lambda it: it.status)],
        counts=counts,
        total=sum(counts.values()),
        headline=headline(counts),
        down=counts[Status.DOWN],
        shapes=SHAPES,
        ago=ago,
        now=now,
        ingest_url=ingest_url.rstrip("/"),
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})


def headline(counts: Mapping[Status, int]) -> str:
    """The fleet in a sentence: `2 down, 1 silent, 41 alive`."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "No services yet"
