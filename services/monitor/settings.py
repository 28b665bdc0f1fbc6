"""The monitor's settings."""

from shared.settings import Port, Settings


class MonitorSettings(Settings):
    monitor_port: Port = 8003
