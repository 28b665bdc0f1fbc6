"""Uptime Kuma's push monitors: `/api/push/KEY?status=up&msg=OK&ping=12`."""

import re

from starlette.responses import JSONResponse, Response

from services.ingest.content import read_signal
from services.ingest.protocols.protocol import (
    CUT,
    Address,
    Asked,
    Beat,
    Documented,
    Protocol,
    Translation,
    not_found,
)
from shared.contracts.events import HeartbeatBody
from shared.contracts.heartbeats import body_as_message, quoted
from shared.http import problems
from shared.http.problems import Problem

PING_MAX = 1e11
"""Milliseconds."""
_UNKNOWN = "Monitor not found or not active."
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]{1,20}\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?)", re.IGNORECASE)


def read_address(asked: Asked) -> Address:
    if len(asked.parts) != 1:
        raise not_found()
    return Address(asked.parts[0], asked.of_key(asked.parts[0]) or "", needs_key=True)


def read(asked: Asked, address: Address, raw: bytes) -> Translation:
    query, warnings = asked.query, list[str]()
    message = body_as_message(raw, asked.headers.get("content-type", ""), query.get("msg", ""))
    signal = "" if (query.get("status") or "up") == "up" and not asked.is_cut else "fail"
    if asked.is_cut:
        warnings.append(CUT)
    duration = _duration(query.get("ping", ""), warnings)
    return Translation([Beat("", HeartbeatBody(message=message), read_signal(signal), warnings, duration)])


def _duration(given: str, warnings: list[str]) -> float | None:
    """In seconds, of what stands there in milliseconds, as JavaScript's parseFloat reads it."""
    if not given.strip():
        return None
    found = _NUMBER.match(given)
    if not found or not 0 <= float(found[1]) <= PING_MAX:
        warnings.append(f"ping: {quoted(given)} is not a number of milliseconds from 0 to 1e11")
        return None
    return float(found[1]) / 1000


def answer(_: Translation, registered: bool) -> Response:
    return JSONResponse({"ok": True})


def refuse(problem: Problem) -> Response:
    if problem.status in (401, 404):
        return JSONResponse({"ok": False, "msg": _UNKNOWN}, 404)
    return problems.response(problem)


PROTOCOL = Protocol(
    "Uptime Kuma",
    re.compile("/api/push(?:/|$)"),
    (),
    (
        Documented(
            "/api/push/{key}",
            "The service of a ping key is up or down",
            ("GET", "POST"),
            {
                "key": "Its ping key",
                "status": "`up`, or nothing; everything else is a failure",
                "msg": "What it says",
                "ping": "How long it took, in milliseconds",
            },
            True,
        ),
    ),
    read_address,
    read,
    answer,
    {200: '`{"ok": true}`', 404: '`{"ok": false, "msg": …}`: no such key'},
    refuse,
)
