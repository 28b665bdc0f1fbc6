"""REGISTRY_CONFIG: a file that is applied at each start of the API."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from nats.errors import Error as NatsError

from services.api.as_code.applying import AsCode
from services.api.projections.store import DatabaseUnavailable
from shared.contracts.configuration import Configuration, ConfigurationFaults, Fault, parse
from shared.contracts.configuration_file import Document, FileFault, read
from shared.http.problems import Problem
from shared.http.server import Health, WrongConfiguration
from shared.messaging.errors import BrokerError
from shared.settings import stop

log = structlog.get_logger()

PART = "configuration"
"""Of the API's health, until the file is applied."""
TRY_AGAIN = 1.0
"""Seconds between two tries."""


@dataclass(frozen=True)
class ConfigurationFile:
    document: Document
    configuration: Configuration

    @property
    def name(self) -> str:
        return Path(self.document.file).name

    def lines(self, faults: Iterable[Fault]) -> str:
        return "\n".join(self.document.fault(it.path, it.why, of_key=it.of_key) for it in faults)


def load(path: str) -> ConfigurationFile | None:
    """The file, if one is named. Ends the process with code 2 if it cannot be used, and says where it is
    wrong."""
    if not path:
        return None
    try:
        document = read(Path(path).read_bytes(), path)
    except OSError as error:
        stop(f"REGISTRY_CONFIG={path!r}: it cannot be read ({error.strerror})")
    except FileFault as error:
        stop(str(error))
    try:
        configuration, faults = parse(document.data)
    except ConfigurationFaults as error:
        configuration, faults = Configuration(version=1), list(error.faults)
    file = ConfigurationFile(document, configuration)
    if faults:
        stop(file.lines(faults))
    return file


async def keep_applying(file: ConfigurationFile, as_code: AsCode, health: Health) -> None:
    """Apply it once the record is read, and try again until all of it is stored. Routes wait for a notifier
    that says which channels there are; the rest does not. Raises WrongConfiguration."""
    while "projection" in health.missing:  # noqa: ASYNC110 - said by many parts
        await asyncio.sleep(0.05)
    said, written = "", 0
    while True:
        try:
            plan = await as_code.plan(file.configuration, file.name, is_dry=True)
            if plan.faults:
                raise WrongConfiguration(file.lines(plan.faults))
            if plan.warnings:
                plan.changes = [change for change in plan.changes if change.kind != "routes"]
            done = await as_code.apply(plan)
            written += done.written
            why = "; ".join([*plan.warnings, *(f"{change.name}: {why}" for change, why in done.failed[:5])])
        except (Problem, BrokerError, NatsError, DatabaseUnavailable, OSError, TimeoutError) as error:
            why, done = getattr(error, "detail", None) or str(error) or repr(error), None
        if done and not done.failed:
            health.good(PART)
        if not why:
            left = [change.name for change in plan.left]
            log.info(
                "the configuration file is applied", file=file.name, changed=written, not_in_it=left[:20]
            )
            return
        if said != (said := why):
            log.warning("a part of the configuration file is applied later", file=file.name, why=why)
        await asyncio.sleep(TRY_AGAIN)
