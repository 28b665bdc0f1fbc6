"""Checks of Healthchecks' Management API as services. Pure.

A check is down when Healthchecks would say so: a grace after its timeout, or after the moment it is due; and
when a run takes longer than the grace. It is silent half-way through the grace.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.cli.imports.draft import Draft, SourceError, listed, seconds_of, text_of
from shared.contracts.events import valid_name
from shared.contracts.ping_keys import is_uuid

_WITHOUT_KEY = (
    "the id, which a read-only key is not told (its pings lead nowhere here: use a key that may write)"
)
_ENDS_PAUSE = "that its next ping ends its pause (here somebody resumes it)"
_MEANS_NOTHING_HERE = {
    "channels": "who hears of it, `channels` (routes decide that here)",
    "methods": "that only POST counts, `methods` (here every method does)",
    "subject": "keywords of mails, `subject` (here the URL says success or failure)",
    "subject_fail": "keywords of mails, `subject_fail` (here the URL says success or failure)",
    "start_kw": "keywords, `start_kw` (here the URL says that it starts)",
    "success_kw": "keywords, `success_kw` (here the URL says that it succeeded)",
    "failure_kw": "keywords, `failure_kw` (here the URL says that it failed)",
}


def convert(answer: Any, now: datetime) -> Draft:
    """`answer`: that to `GET checks/`. Raises SourceError."""
    checks = listed(answer.get("checks") if isinstance(answer, dict) else None, "`checks` of the answer")
    draft = Draft(now)
    for check in sorted(checks, key=lambda each: [text_of(each.get(key)) for key in _SORTED]):
        _add(draft, check)
    return draft


_SORTED = ("name", "slug", "uuid", "ping_url", "unique_key")


def _add(draft: Draft, check: Mapping[str, Any]) -> None:
    slug, name, text = (text_of(check.get(key)).strip() for key in ("slug", "name", "desc"))
    wished = name if valid_name(name) and not slug else slug or name or "check"
    uuid = _uuid(check)
    schedule, grace = text_of(check.get("schedule")).strip(), seconds_of(check.get("grace"))
    timeout = None if schedule else seconds_of(check.get("timeout"))
    limits: dict[str, Any] = {}
    if grace and (schedule or timeout):
        after = timeout or grace * 0
        limits = {"silent_after": after + grace / 2, "down_after": after + grace, "max_run": grace}
    is_paused = check.get("status") == "paused"
    added = draft.add(
        wished,
        description=": ".join(filter(None, (name if name not in (wished, text) else "", text))),
        tags=text_of(check.get("tags")).split(),
        every=timeout,
        schedule=schedule,
        time_zone=text_of(check.get("tz")).strip() if schedule else None,
        paused=is_paused,
        aliases=[uuid] if uuid else (),
        **limits,
    )
    if not uuid:
        draft.left(_WITHOUT_KEY, added)
    if not (schedule or timeout):
        draft.left("when it is due, as it has neither a timeout nor a schedule", added)
    if is_paused and check.get("manual_resume") is False:
        draft.left(_ENDS_PAUSE, added)
    for field, why in _MEANS_NOTHING_HERE.items():
        if check.get(field):
            draft.left(why, added)


def _uuid(check: Mapping[str, Any]) -> str:
    """In v1 and v2 it stands in the URLs only."""
    for key in ("uuid", "ping_url", "update_url"):
        found = text_of(check.get(key)).rstrip("/").rpartition("/")[2]
        if is_uuid(found):
            return found
    return ""


def check_key(key: str) -> str:
    """A key as it can be sent. Raises SourceError, without the key."""
    if not (key and key.isascii() and key.isprintable()) or " " in key:
        raise SourceError("the key cannot be sent: it is empty, or has characters that no key has")
    return key
