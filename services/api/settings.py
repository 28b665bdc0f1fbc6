"""The API's settings."""

from datetime import time, timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from services.api.projections.store import check_url
from shared.settings import CommaSeparated, DatabaseUrl, Port, Settings, TimeOfDay, Tokens, base_url


class ApiSettings(Settings):
    ingest_port: Port = 8001
    mongodb_url: Annotated[DatabaseUrl, AfterValidator(check_url)] = "mongodb://127.0.0.1:27017"
    """The database of the read models. `make run` starts one if the address is on this machine."""
    mongodb_database: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] = "registry"
    """Its name in that server."""
    digest_time: TimeOfDay = time(9)
    api_token: Tokens = ()
    """Full access to the API and the dashboard. Several with commas between, to change one without a gap;
    with names, as in `ana:…,ci:…`, the record says who changed what."""
    read_token: Tokens = ()
    """Read-only access. Several with commas between."""
    ingest_token: Tokens = ()
    config: str = ""
    """A file such as `registry.yaml` that is applied at each start of the API (docs/as-code.md). One that
    cannot be used stops the start. Empty: none."""
    status_page: CommaSeparated = ()
    """Tags whose services everybody may see at `/status`, with commas between; `*`: all. Empty: no such
    page."""

    @property
    def thresholds(self) -> tuple[timedelta, timedelta, timedelta]:
        """After how long a service is silent, down and dead that says nothing of it itself."""
        return self.silent_after, self.down_after, self.dead_after

    @property
    def asks_ingest_token(self) -> bool:
        return bool(self.ingest_token) and "ingest" not in self.anonymous

    @property
    def ingest_url(self) -> str:
        """Where people are told to send heartbeats: a proxy's one address, or beside the API's own port."""
        public = urlsplit(self.public_url)
        if public.port != self.api_port:
            return self.public_url
        return base_url(public.hostname or self.host, self.ingest_port)
