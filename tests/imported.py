"""What an import prints, held against all that `plan` demands of a file."""

from datetime import UTC, datetime
from typing import Any

from services.cli.imports.draft import Draft, as_configuration
from services.cli.imports.printing import as_yaml
from shared.contracts import configuration, configuration_file, schedules
from shared.contracts.wanted import check_order

NOW = datetime(2026, 11, 28, 15, tzinfo=UTC)


def services_of(text: str) -> dict[str, Any]:
    """The services of a printed file. Raises what is wrong with it."""
    data = configuration_file.read(text).data
    found, faults = configuration.parse(data)
    assert not faults
    aliases: list[str] = []
    for name in found.services:
        wanted = configuration.effective(found, name).wanted
        config = wanted.whole()
        check_order(config)
        assert not (config.every and config.schedule)
        if config.schedule:
            schedules.parse(config.schedule, config.time_zone or "UTC", NOW)
        aliases += config.aliases
    assert len(aliases) == len(set(aliases))
    assert all(line.isprintable() for line in text.splitlines())
    return dict(data["services"])


def printed(draft: Draft) -> dict[str, Any]:
    """The services of what is printed of it, which are those that are in it."""
    text = as_yaml(draft, "registry import test", ("What to do next.",))
    assert text == as_yaml(draft, "registry import test", ("What to do next.",))
    services = services_of(text)
    assert configuration_file.read(text).data == as_configuration(draft)
    return services
