"""The settings of `registry`."""

from datetime import time
from pathlib import Path

from pydantic import SecretStr

from shared.settings import (
    CommaSeparated,
    DatabaseUrl,
    HttpUrl,
    Port,
    SecretHttpUrl,
    Settings,
    TimeOfDay,
    Tokens,
)

SERVICES = ("ingest", "monitor", "notifier", "api")


class RunSettings(Settings):
    """With the settings that two services share: a wrong value is told once, before anything is started."""

    data_dir: Path = Path("./data")
    """Files of the servers that `make run` starts."""
    mongodb_url: DatabaseUrl = "mongodb://127.0.0.1:27017"
    ingest_port: Port = 8001
    monitor_port: Port = 8003
    notifier_port: Port = 8004
    ingest_token: Tokens = ()
    digest_time: TimeOfDay = time(9)

    def bound_to(self, service: str) -> str:
        return self.host if service in ("ingest", "api") else self.metrics_host


class ClientSettings(RunSettings):
    api_token: Tokens = ()
    read_token: Tokens = ()


class DoctorSettings(RunSettings):
    telegram_bot_token: SecretStr = SecretStr("")
    telegram_chat_id: CommaSeparated = ()
    mongodb_database: str = "registry"
    telegram_api_url: HttpUrl = "https://api.telegram.org"
    deadman_url: SecretHttpUrl = SecretStr("")
