"""How a page is made: its template, and what every page shows."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.api.context import context_of
from services.api.dashboard import runs
from services.api.http.auth import Role
from services.api.http.requests import write_tags
from shared.contracts import durations, zones
from shared.contracts.events import Status, moment
from shared.contracts.heartbeats import shortened
from shared.domain.incidents import person
from shared.domain.service_state import PAUSED
from shared.http import problems
from shared.http.problems import Problem

ORDER = (Status.DOWN, Status.SILENT, Status.UNKNOWN, Status.ALIVE, PAUSED, Status.DEAD)
"""The order on pages, where dead services stand folded at the end."""
SHAPES = {
    Status.DOWN: "▼",
    Status.SILENT: "◆",
    Status.UNKNOWN: "○",
    Status.ALIVE: "●",
    PAUSED: "‖",
    Status.DEAD: "✕",
}
"""A shape per status, because colour alone tells some people nothing."""

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURED = {"Content-Security-Policy": _POLICY}
_VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted((_HERE / "static").iterdir()))
).hexdigest()[:12]

templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
templates.filters |= {
    "duration": durations.write,
    "tags": write_tags,
    "excerpt": lambda text: shortened(text, 100, 200),
    "moment": moment,
    "at": datetime.fromisoformat,
    "person": person,
    "file": lambda managed_by: managed_by.removeprefix("file:"),
}
templates.globals |= {
    "duration_pattern": durations.FORM_PATTERN,
    "in_words": durations.spoken_seconds,
    "lateness": runs.lateness,
    "outcomes": runs.SHAPES,
    "placed": runs.placed,
    "shapes": SHAPES,
    "version": _VERSION,
}


def page(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """The page that `template` makes of `content` and of what every page shows."""
    api = context_of(request)
    at, role = api.now(), api.auth.role(request)
    known = role is not Role.NOBODY  # others learn nothing of the services, not even from the title
    counts = {status: api.hub.index.counts[status] if known else 0 for status in ORDER}
    html = templates.get_template(template).render(
        content,
        ago=lambda since: durations.spoken(at - since),
        until=lambda moment: durations.spoken(moment - at),
        api=api,
        counts=counts,
        form_key=api.auth.form_key(request),
        known=known,
        local=lambda moment: zones.local(moment, api.settings.zone),
        now=at,
        path=request.url.path,
        role=role.value,
        seq=getattr(request.state, "seq", api.hub.published_through) if known else 0,
        total=sum(counts.values()),
        who=_name(api.auth.actor(request)),
    )
    return HTMLResponse(html, status, headers=SECURED)


def _name(actor: str) -> str:
    """Of whoever is logged in, or has a token with a name."""
    return actor.removeprefix("token:") if actor.startswith("token:") else ""


def problem_page(request: Request, problem: Problem) -> Response:
    """An error as a page for people, and as problem details for everybody else."""
    kinds = request.headers.get("accept", "")
    if "text/html" not in kinds or request.url.path.startswith(("/service/", "/badge/")):
        return problems.response(problem)
    response = page(request, "problem.html", problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response
