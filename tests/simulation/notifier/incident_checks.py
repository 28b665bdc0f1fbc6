"""What must hold of incidents, worked out from the record: who has which in hand, what messages say of it,
who is reminded; and that Telegram's limits hold while messages are edited."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.notifier.alerting.changes import NoticeKind
from services.notifier.texts import incidents as texts
from services.notifier.texts.incidents import Standing
from services.notifier.texts.message import LinkContext, units
from shared.contracts.events import (
    IncidentEvent,
    ServiceAcknowledged,
    ServiceReleased,
    StatusChanged,
    micros,
    moment,
)
from shared.domain import incidents
from shared.domain.incidents import IncidentState
from tests.simulation.model import BASE
from tests.simulation.notifier.people import Press, events_of, seconds_at
from tests.simulation.notifier.run import Played
from tests.simulation.notifier.scenario import HOUR, MINUTE, when
from tests.simulation.notifier.telegram import MOST_PER_MINUTE, Shown
from tests.telegram_standin import parsed

NEVER = float("inf")
BURST = 3
"""What Telegram lets pass at once."""
Span = tuple[float, float]
_CLOCK = re.compile(r"(\w{3} |\d{4}-\d\d-\d\d )?\d\d:\d\d(?!:)")


@dataclass
class Story:
    """Of one service: spans in which somebody had it in hand, or it was muted; how each incident ended."""

    name: str
    state: IncidentState = field(default_factory=IncidentState)
    acknowledged: list[Span] = field(default_factory=list)
    muted: list[Span] = field(default_factory=list)
    incident_at: dict[int, str] = field(default_factory=dict)
    """After each change, by its sequence."""
    began: dict[str, Any] = field(default_factory=dict)
    ended: dict[str, tuple[Any, str | None, bool]] = field(default_factory=dict)
    acknowledgements: list[tuple[str, str]] = field(default_factory=list)
    """Which incident, by whom."""
    taken_away: list[str] = field(default_factory=list)
    newest: float = 0.0
    """When anything happened last."""


def story(played: Played, name: str) -> Story:
    it = Story(name)
    state, ack_since, mute_since = it.state, None, None
    for stored, event in events_of(played.world.events, name):
        at, before, had = seconds_at(stored), state.incident, state.acknowledged
        incidents.apply(state, event, stored.seq, stored.at)
        if not isinstance(event, IncidentEvent) or event.type != "service.told.v1":
            it.newest = at
        if isinstance(event, ServiceAcknowledged) and event.data.acknowledged:
            given = event.data.acknowledged
            it.acknowledgements.append((given.incident, given.by))
            if had and had.incident == given.incident and had.by != given.by:
                it.taken_away.append(f"{given.by} took it from {had.by} at {at:.3f}")
        has, mute = state.acknowledged, state.muted(stored.at)
        if has is None and had and state.incident == before and not isinstance(event, ServiceReleased):
            it.taken_away.append(f"{had.by} had it no more at {at:.3f}")
        if before and state.incident != before:
            is_change = isinstance(event, StatusChanged)
            since = event.data.since if is_change else moment(stored.at)
            it.ended[before.id] = since, had.by if had else None, not is_change
        if state.incident:
            it.began[state.incident.id] = moment(state.incident.began_at)
            if isinstance(event, StatusChanged):
                it.incident_at[stored.seq] = state.incident.id
        if ack_since is not None and has is None:
            it.acknowledged.append((ack_since, at))
        ack_since = None if has is None else ack_since if ack_since is not None else at
        if mute_since and (mute is None or mute != mute_since[1]):
            it.muted.append((mute_since[0], min(at, _end(mute_since[1]))))
        if mute is None:
            mute_since = None
        elif not mute_since or mute_since[1] != mute:
            mute_since = at, mute
    if ack_since is not None:
        it.acknowledged.append((ack_since, NEVER))
    if mute_since:
        it.muted.append((mute_since[0], _end(mute_since[1])))
    return it


def _end(mute: Any) -> float:
    return (micros(mute.until) - BASE) / 1e6 if mute.until else NEVER


def problems(played: Played, stories: dict[str, Story], settled: float) -> Iterator[str]:
    """`settled`: seconds after which everything is told, once nothing is broken."""
    scenario = played.scenario
    well_from = scenario.calm_at + (settled if scenario.calm_at > scenario.start else 0)
    for it in stories.values():
        yield from (f"{it.name}: {problem}" for problem in it.taken_away)
    yield from _reminded(played, stories, settled)
    yield from _answered(played, stories, well_from)
    yield from _limits(played)
    for shown in played.telegram.shown:
        yield from _up_to_date(played, stories, shown, settled, well_from)


def _reminded(played: Played, stories: dict[str, Story], settled: float) -> Iterator[str]:
    for shown in played.telegram.shown:
        for notice in shown.message.notices:
            spans = stories[notice.name].acknowledged
            surely = any(start + settled <= shown.at < end for start, end in spans)
            if notice.kind is NoticeKind.REMINDER and surely:
                where = f"in {shown.phone.address} at {shown.at:.3f}"
                yield f"{notice.name}: somebody has it in hand, and it was reminded of {where}"


def _answered(played: Played, stories: dict[str, Story], well_from: float) -> Iterator[str]:
    answers: dict[str, str] = {it["callback_query_id"]: it["text"] for it in played.telegram.answers}
    for press in played.people.presses:
        said = answers.get(press.id)
        if said is None:
            if press.at > well_from and press.at < played.scenario.end - MINUTE:
                yield f"{press.name}: the press at {press.at:.3f} was not answered"
        elif press.data.startswith("ack:"):
            yield from _acknowledged(press, said, stories[press.name])


def _acknowledged(press: Press, said: str, it: Story) -> Iterator[str]:
    incident = press.data.rpartition(":")[2]
    owners = [by for of, by in it.acknowledgements if of.startswith(incident)]
    if said == "You have it" and press.actor not in owners:
        yield f"{it.name}: at {press.at:.3f} {press.actor} was told to have it, and has not"
    found = re.match(r"(\w+) has it", said)
    if found and found[1] not in map(texts.person, owners):
        yield f"{it.name}: at {press.at:.3f} it was said that {found[1]} has it"


def _limits(played: Played) -> Iterator[str]:
    """Of each notifier by itself: another one knows nothing of what it has sent."""
    taken = defaultdict[tuple[str, str], list[float]](list)
    for at, by, phone in played.telegram.asked:
        taken[by, phone.address].append(at)
    for (by, address), ats in taken.items():
        if any(later - first < 1 for first, later in zip(ats, ats[BURST:], strict=False)):
            yield f"{by} sent and edited more than {BURST} times within a second in {address}"
        most = MOST_PER_MINUTE if address.startswith("-") else 60
        if any(later - first < 60 for first, later in zip(ats, ats[most:], strict=False)):
            yield f"{by} sent and edited more than {most} times within a minute in {address}"


def _up_to_date(
    played: Played, stories: dict[str, Story], shown: Shown, settled: float, well_from: float
) -> Iterator[str]:
    scenario, message, end = played.scenario, shown.message, played.scenario.end
    if not message.falls or not shown.confirmed:
        return
    was_kept = shown.id in played.people.remembered
    if not was_kept and shown.by not in {by for _, by in played.ends}:
        yield f"#{shown.id} at {shown.at:.3f} was not remembered"
    kinds = {it.kind for it in (*shown.phone.troubles, *scenario.troubles)}
    patience = settled + (2 * HOUR if kinds & {"kicked", "token"} else 0)
    if (
        not was_kept
        or shown.address != shown.phone.now_at(end)
        or any(it.phone is shown.phone and it.text == "/stop" for it in scenario.commands)
        or "odd" in kinds
        or end < max(well_from, shown.at) + patience
    ):
        return
    newest = {it.name: it.seq for it in (*message.changes, *message.notices)}
    standings = []
    for name in message.falls:
        it = stories[name]
        incident = it.incident_at.get(newest[name])
        if incident is None or it.newest > end - patience:
            return
        if any(abs(stop - end) < patience for _, stop in it.muted):
            return
        standings.append(_standing(it, incident, end))
    if any(_is_silenced(played, name) for name in message.falls):
        return
    links = LinkContext("", scenario.zone)
    plain = message.plain_text
    lines = texts.standing_lines(standings, when(shown.at), links, texts.MAX_UNITS - units(plain) - 2)
    says = shown.now_says
    tail = says.rpartition("\n\n")[2] if shown.edits and lines else ""
    is_right = _CLOCK.sub("T", tail) == _CLOCK.sub("T", lines) if lines else says == parsed(message.text)
    if not is_right:
        yield f"#{shown.id} in {shown.phone.address} says {tail!r} in the end, and not {lines!r}"
    rows = [
        (it.name, stories[it.name].incident_at[newest[it.name]], it.acknowledged is not None)
        for it in standings
        if not (it.ended or it.deleted)
    ]
    buttons = texts.incident_buttons(rows, len(standings))
    expected = tuple(data for row in buttons for _, data in row)
    if shown.buttons != expected:
        yield f"#{shown.id} in {shown.phone.address} has the buttons {shown.buttons} in the end"


def _standing(it: Story, incident: str, end: float) -> Standing:
    began = it.began[incident]
    if found := it.ended.get(incident):
        return Standing(it.name, began, found[0], found[1], found[2])
    now = BASE + round(end * 1e6)
    return Standing(it.name, began, acknowledged=it.state.acknowledged, muted=it.state.muted(now))


def _is_silenced(played: Played, name: str) -> bool:
    config = None
    for _, event in events_of(played.world.events, name):
        config = getattr(event.data, "config", config)
    return config is not None and (config.paused or not config.notify)
