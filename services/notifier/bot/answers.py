"""What the bot answers, as texts. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from services.notifier.texts import message as messages
from services.notifier.texts.incidents import muted_until
from services.notifier.texts.message import LinkContext, OutgoingMessage, answer, answer_lines, bold, lines
from shared.contracts import schedules, zones
from shared.contracts.durations import spoken
from shared.contracts.events import Mute, micros, moment
from shared.contracts.zones import local
from shared.domain import digest
from shared.domain.digest import MARKS
from shared.domain.service_state import ServiceState
from shared.domain.timetable import EARLY, NEVER, Timetable

SERVICES_PER_PAGE, MAX_PAGE = 40, 3500
"""Services on one page of the list, and its UTF-16 units."""
MAX_MUTES_LISTED = 5
MAX_SCHEDULE = 300

HELP = """/status: how the fleet is
/status NAME: one service
/services: all of them
/incidents: what is not alive, worst first, and who has it in hand
/ack NAME [note]: you have it in hand: nobody is reminded until it is alive
/mute NAME 2h: nobody hears of a service for a while (1h if no time is given)
/unmute NAME
/only TAG: hear only of services with a tag; /all: of every one
/quiet 22:00-07:00: without sound at these hours; /quiet off
/digest: the daily digest as of now
/stop: no more messages
/help"""


def unknown_service(name: str, similar: Sequence[str]) -> OutgoingMessage:
    hint = f"Did you mean {', '.join(similar)}?" if similar else "/services lists them all."
    return answer_lines(f"There is no service {messages.cut(name, messages.MAX_NAME)}. {hint}")


def fleet_status(
    services: Iterable[ServiceState],
    muted: Mapping[str, Mute],
    mutes: Mapping[str, datetime],
    now: datetime,
    links: LinkContext,
    chosen: Sequence[str] = (),
    beside: digest.Beside = digest.NOTHING_BESIDE,
) -> OutgoingMessage:
    """`mutes`: those of an older version, in this chat alone. `chosen`: what the subscriber who asks wants to
    hear, in words."""
    said = digest.status_lines(digest.digest(services, {}, now, beside=beside), links.zone)
    entries = [f"{name} {muted_until(mute, now, links)}" for name, mute in sorted(muted.items())]
    entries += [f"{name} here until {local(until, links.zone)}" for name, until in sorted(mutes.items())]
    if entries:
        more = len(entries) - MAX_MUTES_LISTED
        said += ["", f"🔕 Muted ({len(entries)})", *entries[:MAX_MUTES_LISTED]]
        said += [f"+{more} more"] if more > 0 else []
    if chosen:
        said += ["", *chosen]
    return messages.digest_message(said, links, 0)


def service_status(
    service: ServiceState,
    heard: datetime | None,
    counted_at: datetime | None,
    incident: Sequence[str],
    now: datetime,
    links: LinkContext,
) -> OutgoingMessage:
    """`heard`: when its newest heartbeat came; `counted_at`: that, or the start of the run that it ended.
    `incident`: who has it in hand, and whether it is muted."""
    since, zone = moment(service.since), links.zone
    details = [f"since {local(since, zone)}, for {spoken(now - since)}"]
    details.append(
        f"last heartbeat {local(heard, zone)}, {spoken(now - heard)} ago" if heard else "never heard"
    )
    if service.schedule:
        timetable = Timetable(service.schedule, service.time_zone or zone.key, service.early or EARLY)
        details += _schedule(timetable, now, micros(counted_at) if counted_at else 0)
    if service.paused:
        details.append("paused: it is not evaluated")
    details += incident
    return answer(messages.service_block(service.name, service.status, service.status, details, links))


def _schedule(timetable: Timetable, now: datetime, counted_at: int) -> list[str]:
    """When it is due, in words, and the next moment that is not met, in the zone of its schedule."""
    try:
        schedule = schedules.parse(timetable.schedule, timetable.time_zone, now)
    except ValueError:  # another version has accepted it, or it never comes any more
        return []
    said = [f"due {messages.cut(schedule.says, MAX_SCHEDULE)} ({timetable.time_zone})"]
    if (due := timetable.awaited(timetable.following(micros(now)), counted_at)) < NEVER:
        at, zone = moment(due), zones.zone(timetable.time_zone)
        said.append(f"expected {zones.in_a_word(at, now, zone)}, in {spoken(at - now)}")
    return said


def services_page(services: Iterable[ServiceState], number: int) -> OutgoingMessage:
    """A page of the list of all services, worst first; the first is 0."""
    pages = _pages(sorted(services, key=lambda service: (-service.status.badness, service.name)))
    if not pages:
        return answer_lines("No services yet.")
    number = max(0, min(number, len(pages) - 1))
    turns = (("◀", number - 1), ("▶", number + 1))
    row = tuple((sign, f"page:{to}") for sign, to in turns if 0 <= to < len(pages))
    title = bold(f"Services, page {number + 1} of {len(pages)}")
    entries = [f"{MARKS[service.status]} {service.name}" for service in pages[number]]
    return answer(lines([title, *entries]), (row,) if row else ())


def _pages(services: Iterable[ServiceState]) -> list[list[ServiceState]]:
    pages: list[list[ServiceState]] = []
    room = 0
    for service in services:
        size = messages.units(service.name) + 4
        if not pages or len(pages[-1]) >= SERVICES_PER_PAGE or size > room:
            pages.append([])
            room = MAX_PAGE
        pages[-1].append(service)
        room -= size
    return pages
