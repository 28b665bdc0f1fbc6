"""Ingest's settings."""

from shared.setting_types import PerSecond, Port, Tokens
from shared.settings import Settings


class IngestSettings(Settings):
    ingest_port: Port = 8001
    ingest_token: Tokens = ()
    rate_limit_per_token: PerSecond = 0.0
