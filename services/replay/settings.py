"""The settings of a replay: those by which the monitor and the notifier go."""

from services.notifier.settings import REMIND_AFTER, RemindAfter
from shared.settings import Settings


class ReplaySettings(Settings):
    remind_after: RemindAfter = REMIND_AFTER
