"""Ingest's settings, apart from ingest itself: `registry doctor` reads them too."""

from shared.settings import PerSecond, Port, Settings, Tokens


class IngestSettings(Settings):
    ingest_port: Port = 8001
    """Port of ingest."""
    ingest_token: Tokens = ()
    """Heartbeats need it when it is set (`Authorization: Bearer …`, or `?token=`). Several with commas
    between."""
    rate_limit_per_token: PerSecond = 0.0
    """Requests to ingest with one and the same token, or with the keys of one service. Empty: no limit."""
