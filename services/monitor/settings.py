"""The monitor's settings."""

from shared.setting_types import Port
from shared.settings import Settings


class MonitorSettings(Settings):
    monitor_port: Port = 8003
