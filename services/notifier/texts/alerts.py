"""How a group of changes of one service is written: as a block of lines, or as one line. Pure."""

from datetime import datetime

from services.notifier.alerting.changes import StatusChange
from services.notifier.alerting.grouping import AlertGroup
from services.notifier.texts.markup import Text, bold, cut, cut_middle, lines, one_line
from services.notifier.texts.message import MAX_NAME, LinkContext, service_link, service_url
from shared.contracts.durations import spoken, spoken_seconds
from shared.contracts.events import Status
from shared.contracts.zones import local
from shared.domain.digest import MARKS

MAX_REASON = 300
MAX_EXCERPT = 200


def block(group: AlertGroup, links: LinkContext, now: datetime | None = None) -> Text:
    """`now`: when it is told, if that is later than usual."""
    change = group.last
    since = f"since {local(change.since, links.zone)}"
    details = (
        _what_happened(change),
        _excerpt(group),
        f"{since}, for {spoken(now - change.since)}" if now else since,
        _last_heartbeat(change, links),
        _flapping(group),
    )
    title = f"{MARKS[change.to]} " + bold(service_link(group.name, links)) + f": {group.path}"
    url = Text("", f"\n{service_url(cut(group.name, MAX_NAME), links)}")
    return lines([title, *filter(None, details)]) + url


def line(group: AlertGroup, links: LinkContext) -> Text:
    failed = "failed " if group.last.to is not Status.ALIVE else ""
    more = (_run_time(group.last, failed), _excerpt(group))
    return short_line(group, links) + "".join(f", {text}" for text in more if text)


def short_line(group: AlertGroup, links: LinkContext) -> Text:
    change = group.last
    rest = f" {group.path} since {local(change.since, links.zone)}"
    rest += f", {_how_long(change) or _last_heartbeat(change, links)}"
    rest += ", flapping 🔁" if group.is_flapping else ""
    return f"{MARKS[change.to]} " + service_link(group.name, links) + rest


def _flapping(group: AlertGroup) -> str:
    """That it is flapping, and when the receiver hears of it next."""
    if not group.is_flapping:
        return ""
    how = f"flapping: {group.flaps} turns within an hour" if group.flaps else "still flapping"
    then = {
        Status.ALIVE: "down for 5 min or calm for 30 min",
        Status.SILENT: "back, down for 5 min or calm for 30 min",
    }.get(group.last.to, "back")
    return f"🔁 {how}; next you hear when it is {then}"


def _last_heartbeat(change: StatusChange, links: LinkContext) -> str:
    if change.last_heartbeat is None:
        return "never heard"
    return f"last heartbeat {local(change.last_heartbeat, links.zone)}"


def _what_happened(change: StatusChange) -> str:
    """How long it lasted, for a recovery; that it is the first heartbeat; or the reason of a fall."""
    if change.to is not Status.ALIVE:
        return f"{cut(one_line(change.reason), MAX_REASON)} {_run_time(change)}".strip()
    told = "first heartbeat" if change.from_ is Status.UNKNOWN else _how_long(change)
    return ", ".join(filter(None, (told, _run_time(change))))


def _run_time(change: StatusChange, failed: str = "") -> str:
    """How long the run was that ended with it: `ran 12 s`, or `after 12 s` for a failure."""
    if change.duration is None:
        return ""
    length = spoken_seconds(change.duration)
    return f"{'ran' if change.to is Status.ALIVE else f'{failed}after'} {length}"


def _excerpt(group: AlertGroup) -> str:
    """What its newest heartbeat with a message had to say, in one line."""
    message = next((change.message for change in reversed(group.changes) if change.message), None)
    text = one_line(message or "")
    return f"“{cut_middle(text, MAX_EXCERPT)}”" if text else ""


def _how_long(change: StatusChange) -> str:
    if change.to is not Status.ALIVE or change.from_ is Status.UNKNOWN or change.began is None:
        return ""
    return f"was {change.from_} for {spoken(change.since - change.began)}"
