"""Uptime Kuma's monitors as services: of its JSON export, or of the rows of its database. Pure.

Only push monitors wait for somebody to report, as services here do. Kuma says down when nothing has come for
an interval and all retries. Here that is `down_after`; without retries it is two intervals, as it is silent
after one.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from services.cli.imports.draft import Draft, SourceError, listed, seconds_of, text_of

Row = Mapping[str, Any]
_NO_KEY = "the push token, which the export does not have (what pushes to it will not be found here)"
_UPSIDE_DOWN = "monitors that are upside down (there a push is bad news; a service here is one that reports)"
_UNTIMED = "when it is due, as its interval is no number of seconds"
_NOTIFIED = "who hears of it, its notifications (routes decide that here)"
_RESENT = "that it is sent again, `resend_interval` (`remind` of a route does that here)"


def convert(dump: Any, now: datetime, *, probes: bool = False) -> Draft:
    """`dump`: the export, or `{"monitorList": [rows…], …}` of a database. `probes`: what Kuma asks by itself
    becomes a service too. Raises SourceError."""
    rows = _monitors(dump)
    by_id = {text_of(row.get("id")): row for row in rows}
    draft = Draft(now)
    for row in sorted(rows, key=lambda row: (int(text_of(row.get("id")) or 0), text_of(row.get("name")))):
        kind = text_of(row.get("type"))
        name = text_of(row.get("name")).strip() or f"monitor-{text_of(row.get('id'))}"
        if kind == "group":
            continue
        if kind != "push" and not probes:
            draft.left(
                "what Uptime Kuma asks by itself (here services report; --probes makes services of them)",
                f"{name} ({kind or '?'})",
            )
        elif kind == "push" and row.get("upside_down"):
            draft.left(_UPSIDE_DOWN, name)
        else:
            _add(draft, name, row, list(_groups(row, by_id)))
    _rest(draft, dump)
    return draft


def _add(draft: Draft, name: str, row: Row, groups: list[Row]) -> None:
    interval = seconds_of(row.get("interval"))
    retry = seconds_of(row.get("retry_interval")) or interval
    retries = max(1, _count(row.get("maxretries")))
    limits: dict[str, Any] = {}
    if interval and retry:
        limits = {"silent_after": interval, "down_after": interval + retries * retry}
    key = text_of(row.get("push_token")).strip() if row.get("type") == "push" else ""
    in_groups = [text_of(group.get("name")) for group in reversed(groups)]
    added = draft.add(
        name,
        description=text_of(row.get("description")),
        tags=[*in_groups, *_tags(row)],
        every=interval,
        paused=any(not _is_active(each) for each in (row, *groups)),
        aliases=[key] if key else (),
        **limits,
    )
    if not key and row.get("type") == "push":
        draft.left(_NO_KEY, added)
    if not interval:
        draft.left(_UNTIMED, added)
    if row.get("notification_id_list"):
        draft.left(_NOTIFIED, added)
    if _count(row.get("resend_interval")):
        draft.left(_RESENT, added)


def _monitors(dump: Any) -> list[Row]:
    found = dump.get("monitorList", dump) if isinstance(dump, dict) else dump
    if isinstance(found, dict):  # as the server itself sends it: by id
        found = list(found.values())
    if isinstance(dump, dict) and "monitorList" not in dump and not all(map(_is_monitor, found)):
        raise SourceError("it has no `monitorList`, as an export of Uptime Kuma has")
    rows: list[Row] = [
        {_snake(key): value for key, value in row.items()} for row in listed(found, "`monitorList`")
    ]
    for row in rows:
        if not re.fullmatch("[0-9]{0,18}", text_of(row.get("id"))):
            raise SourceError("`monitorList` has a monitor whose `id` is no number")
    return rows


def _is_monitor(row: Any) -> bool:
    return isinstance(row, dict) and "type" in row and "name" in row


def _snake(key: Any) -> str:
    """`pushToken` and `notificationIDList` as they are called in the database."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", str(key)).lower()


def _groups(row: Row, by_id: Mapping[str, Row]) -> Iterable[Row]:
    """The groups that a monitor is in, from the nearest on."""
    seen: set[str] = set()
    while (parent := text_of(row.get("parent"))) in by_id and parent not in seen:
        seen.add(parent)
        row = by_id[parent]
        yield row


def _tags(row: Row) -> Iterable[str]:
    tags = row.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        if isinstance(tag, dict):
            name, value = text_of(tag.get("name")).strip(), text_of(tag.get("value")).strip()
            yield f"{name}:{value}" if name and value else name


def _is_active(row: Row) -> bool:
    return row.get("active") in (None, True, 1, "1")


def _count(value: Any) -> int:
    return min(value, 10_000) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


_LISTS = {
    "notificationList": ("notification channels (set yours as settings of the registry)", "name"),
    "maintenanceList": ("maintenance windows (write them under `maintenance`)", "title"),
    "statusPageList": ("status pages (write them under `status_pages`)", "title"),
    "proxyList": ("proxies", ""),
}


def _rest(draft: Draft, dump: Any) -> None:
    for key, (why, name) in _LISTS.items():
        rows = dump.get(key) if isinstance(dump, dict) else None
        if isinstance(rows, list) and rows:
            whose = (text_of(row.get(name)) if isinstance(row, dict) else "" for row in rows)
            draft.left(why, *filter(None, whose))
