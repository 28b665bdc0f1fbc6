"""Gaps between the heartbeats of a service, recorded so that its past is known for longer than heartbeats are
kept. Pure."""

from services.monitor.domain.service import Beat, Gap, MonitoredService
from shared.contracts.events import Signal


def is_gap(service: MonitoredService, at: int) -> bool:
    """Whether a heartbeat at `at` comes so late after the one before that this is to be recorded."""
    return 2 * (at - service.last_beat) > service.patience.silent


def gap_before(service: MonitoredService, beat: Beat) -> Gap | None:
    """The gap that ends with a heartbeat; to be asked before that is applied. Where there is a schedule, the
    facts about runs tell of each heartbeat. What was removed unread is no gap."""
    last = service.last_beat
    if not last or beat.at <= last or not is_gap(service, beat.at) or beat.signal is Signal.LOG:
        return None
    if beat.after_hole or service.unproved > last or (service.job and service.job.timetable):
        return None
    return Gap(last, beat.at, beat.signal)
