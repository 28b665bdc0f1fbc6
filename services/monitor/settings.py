"""The monitor's settings, apart from the monitor itself: `registry doctor` reads them too."""

from shared.settings import Port, Settings


class MonitorSettings(Settings):
    monitor_port: Port = 8003
    """Port of the monitor. `make run` takes a free one if it is taken."""
