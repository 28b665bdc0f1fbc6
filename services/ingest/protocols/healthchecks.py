"""Healthchecks' pings: `/ping/KEY` or `/ping/TOKEN/NAME`, then nothing, a signal or an exit code."""

import re

from starlette.responses import PlainTextResponse, Response

from services.ingest.content import read_signal
from services.ingest.protocols.protocol import (
    ANY_WORD,
    Address,
    Asked,
    Beat,
    Documented,
    Protocol,
    Translation,
    not_found,
)
from shared.contracts.events import HeartbeatBody
from shared.contracts.heartbeats import body_as_message
from shared.contracts.ping_keys import is_uuid
from shared.http import problems
from shared.http.problems import Problem

HEADERS = {"Ping-Body-Limit": "10000", "Access-Control-Allow-Origin": "*"}
_SIGNALS = ("", "start", "fail", "log")
_CODE = re.compile(r"0*[0-9]{1,3}")
_LONGER_CODE = re.compile(r"[0-9]+")


def read_address(asked: Asked) -> Address:
    first, *rest = asked.parts
    if service := asked.of_key(first):
        if len(rest) > 1:
            raise not_found()
        return Address(first, service, rest="".join(rest))
    if len(rest) > 2 or "" in rest[:1]:
        raise not_found()
    if is_uuid(first) or not first or not rest:
        return Address(first, needs_key=True)
    return Address(first, name=rest[0], must_exist=asked.query.get("create") != "1", rest="".join(rest[1:]))


def read(asked: Asked, address: Address, raw: bytes) -> Translation:
    if _CODE.fullmatch(address.rest):
        code = int(address.rest[-3:])  # of thousands of digits Python makes no number
        if code > 255:
            raise Problem(400, "invalid url format")
        headers = read_signal(str(code))
    elif _LONGER_CODE.fullmatch(address.rest):
        raise Problem(400, "invalid url format")
    elif address.rest in _SIGNALS:
        headers = read_signal(address.rest)
    else:
        raise not_found()
    run = asked.query.get("rid")
    if run is not None and not is_uuid(run):
        raise Problem(400, "invalid uuid format")
    if address.rest == "log":
        run = None
    message = body_as_message(raw, asked.headers.get("content-type", ""))
    return Translation([Beat(address.name, HeartbeatBody(message=message, run=run), headers, [])])


def answer(_: Translation, registered: bool) -> Response:
    return _text("Created", 201) if registered else ok()


def ok() -> Response:
    return _text("OK", 200)


def refuse(problem: Problem) -> Response:
    if problem.status in (401, 404):
        return _text("not found", 404)
    if problem.status == 400:
        return _text(problem.detail, 400)
    response = problems.response(problem)
    response.headers.update(HEADERS)
    return response


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(text, status, HEADERS)


_KEY_OR_WORD = "A ping key, or an ingest token"
_QUERY = {"rid": "The client's id of the run that begins or ends, a UUID"}
_CREATE = {"create": "`1`: a service that is not known is registered"}
_SIGNAL = {"signal": "start, fail, log, or an exit code from 0 to 255"}

PROTOCOL = Protocol(
    "Healthchecks",
    re.compile("/ping(?:/|$)"),
    ("GET", "POST"),
    (
        Documented(
            "/ping/{key}",
            "The service of a ping key is alive",
            ("GET", "POST"),
            {"key": "Its ping key"} | _QUERY,
            True,
        ),
        Documented(
            "/ping/{key_or_token}/{signal_or_name}",
            "A run of it begins, fails or ends; or another service, by its name, is alive",
            ("GET", "POST"),
            {
                "key_or_token": _KEY_OR_WORD,
                "signal_or_name": f"After a key: {_SIGNAL['signal']}. After a token: a service's name",
            }
            | _QUERY
            | _CREATE,
            True,
        ),
        Documented(
            "/ping/{token}/{name}/{signal}",
            "The same signals by name",
            ("GET", "POST"),
            {"token": ANY_WORD, "name": "The service's"} | _SIGNAL | _QUERY | _CREATE,
            True,
        ),
    ),
    read_address,
    read,
    answer,
    {
        200: "OK",
        201: "Created: `create=1` has registered it",
        400: "invalid url format, or invalid uuid format",
        404: "not found",
    },
    refuse,
)
