"""How a page is made: its template, and what every page shows."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from services.api import tags
from services.api.context import ApiContext, context_of
from services.api.http.auth import Role
from shared.contracts import durations, zones
from shared.contracts.events import Status, moment
from shared.contracts.heartbeats import shortened
from shared.http import problems
from shared.http.problems import Problem

ORDER = (Status.DOWN, Status.SILENT, Status.UNKNOWN, Status.ALIVE, Status.DEAD)
"""The order on pages, where dead services stand folded at the end."""
SHAPES = {
    Status.DOWN: "▼",
    Status.SILENT: "◆",
    Status.UNKNOWN: "○",
    Status.ALIVE: "●",
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
    "tags": tags.written,
    "excerpt": lambda text: shortened(text, 100, 200),
}
templates.globals |= {
    "duration_pattern": durations.FORM_PATTERN,
    "in_words": durations.spoken_seconds,
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
        banner=_banner(api, at) if known else [],
        counts=counts,
        down=counts[Status.DOWN],
        form_key=api.auth.form_key(request),
        headline=headline(counts, api.hub.last_change, at),
        local=lambda moment: zones.local(moment, api.settings.zone),
        now=at,
        path=request.url.path,
        role=role.value,
        guarded=api.auth.guarded,
        seq=getattr(request.state, "seq", api.hub.published_through) if known else 0,
        total=sum(counts.values()),
    )
    return HTMLResponse(html, status, headers=SECURED)


def problem_page(request: Request, problem: Problem) -> Response:
    """An error as a page for people, and as problem details for everybody else."""
    kinds = request.headers.get("accept", "")
    if "text/html" not in kinds or request.url.path.startswith(("/service/", "/badge/")):
        return problems.response(problem)
    response = page(request, "problem.html", problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response


def headline(counts: Mapping[Status, int], last_change: int, now: datetime) -> str:
    """All services in a sentence: `2 down, 1 silent, 41 alive, last change 3 s ago`."""
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    if not parts:
        return "No services yet"
    if last_change:
        parts.append(f"last change {durations.spoken(now - moment(last_change))} ago")
    return ", ".join(parts)


def _banner(api: ApiContext, now: datetime) -> list[str]:
    """What is wrong with the registry itself."""
    warnings, longest = [], api.settings.deaf_after
    if missing := api.health.missing:
        warnings.append(f"Not up to date: {', '.join(sorted(missing))} not reached.")
    covered_until, evaluated_at = api.hub.coverage.until, api.hub.evaluated_at
    if covered_until and (deaf := now - moment(covered_until)) > longest:
        warnings.append(f"No heartbeats are taken in since {durations.spoken(deaf)}.")
    if evaluated_at == 0:
        warnings.append("No service is evaluated: no monitor answers.")
    elif evaluated_at and (late := now - moment(evaluated_at)) > longest:
        warnings.append(f"No service is evaluated since {durations.spoken(late)}.")
    return warnings
