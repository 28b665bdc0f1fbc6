"""Ingest's settings, apart from ingest itself: `registry doctor` reads them too."""

from shared.settings import PerSecond, Port, Settings, Tokens


class IngestSettings(Settings):
    ingest_port: Port = 8001
    ingest_token: Tokens = ()
    rate_limit_per_token: PerSecond = 0.0
