"""What a heartbeat must be, and the one way it takes into the stream."""

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter
from pydantic import ValidationError

from services.ingest.names import Names
from shared import durations, streams
from shared.broker import BrokerError, Publisher
from shared.events import (
    EXIT_CODE_HEADER,
    MESSAGE_MAX,
    NAME_RULE_IN_WORDS,
    SIGNAL_HEADER,
    SOURCE_HEADER,
    HeartbeatBody,
    Signal,
    valid_name,
)
from shared.problems import Problem, explain

HEARTBEATS = Counter("registry_heartbeats_total", "Heartbeats over HTTP, by what became of them", ["result"])
STORED, REFUSED, NOT_STORED = (HEARTBEATS.labels(r) for r in ("stored", "refused", "not_stored"))

_OVER_HTTP = {SOURCE_HEADER: "http"}

RETRY_AFTER = 2
"""Seconds a client should wait after a 503."""

LIMIT_RETRY_AFTER = 60


class Gate:
    """Lets heartbeats through to the broker, or says why not."""

    def __init__(self, publisher: Publisher, names: Names) -> None:
        self._publisher = publisher
        self._names = names

    async def store(
        self, name: str, headers: dict[str, str] | None = None, body: HeartbeatBody | None = None
    ) -> None:
        """Return once the broker has stored it. Raises Problem 422, 429 or 503. `headers`: its signal."""
        if not valid_name(name):
            REFUSED.inc()
            raise Problem(422, f"service_name: {NAME_RULE_IN_WORDS}")
        known = name in self._names
        if not self._names.admit(name):
            REFUSED.inc()
            raise Problem(429, "the registry's limit of services is reached", retry_after=LIMIT_RETRY_AFTER)
        try:
            await self._publisher.publish(
                streams.heartbeat(name),
                body.model_dump_json(exclude_none=True).encode() if body else b"",
                _OVER_HTTP | headers if headers else _OVER_HTTP,
            )
        except BrokerError as error:
            NOT_STORED.inc()
            if not known:
                self._names.forget(name)
            raise Problem(503, f"not stored: {error}", retry_after=RETRY_AFTER) from None
        STORED.inc()

    async def store_all(self, names: Sequence[Any]) -> dict[str, Any]:
        """Store one heartbeat per name. Raises Problem 503 if the broker took none of those it was given."""
        answers = await asyncio.gather(*(self._store_one(name) for name in names))
        rejected = [
            {"service": _echo(name), "reason": problem.detail}
            for name, problem in zip(names, answers, strict=True)
            if problem
        ]
        not_stored = [problem for problem in answers if problem and problem.status == 503]
        if not_stored and len(rejected) == len(names):
            raise not_stored[0]
        return {"accepted": len(names) - len(rejected), "rejected": rejected}

    async def _store_one(self, name: Any) -> Problem | None:
        try:
            await self.store(name if isinstance(name, str) else "")
        except Problem as problem:
            return problem
        return None


def _echo(name: Any) -> str:
    """What the client sent, in a form and a length that can be sent back."""
    text = name if isinstance(name, str) else repr(name)
    return text[:200].encode(errors="replace").decode()


def read_signal(word: str) -> dict[str, str] | None:
    """`fail`, `start` or an exit code, as the headers that say so; success needs none. Raises Problem 422."""
    if word in (Signal.FAIL, Signal.START):
        return {SIGNAL_HEADER: word}
    if word.isascii() and word.isdigit() and len(word) <= 3 and (code := int(word)) <= 255:
        return {SIGNAL_HEADER: Signal.FAIL, EXIT_CODE_HEADER: str(code)} if code else None
    raise Problem(422, "after the service name comes nothing, fail, start, or an exit code from 0 to 255")


def read_body(raw: bytes, content_type: str, every: str | None) -> HeartbeatBody | None:
    """A JSON body, or plain text as its message. `every` is the query's. Raises Problem 422."""
    body = _read_json(raw, content_type) if raw.strip() else None
    if body is None and raw.strip():
        body = HeartbeatBody(message=raw.decode(errors="replace")[:MESSAGE_MAX])
    if every is None:
        return body
    try:
        return (body or HeartbeatBody()).model_copy(update={"every": durations.parse(every)})
    except ValueError as error:
        raise Problem(422, f"every: {error}") from None


def _read_json(raw: bytes, content_type: str) -> HeartbeatBody | None:
    """None if it is plain text: not called JSON, and not readable as a JSON object either."""
    called_json = content_type.partition(";")[0].strip().endswith("json")
    if not called_json and not raw.lstrip().startswith(b"{"):
        return None
    try:
        return HeartbeatBody.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors()
        if not called_json and errors[0]["type"] == "json_invalid":
            return None
        raise Problem(422, explain(errors)) from None
