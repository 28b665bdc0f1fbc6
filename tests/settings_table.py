"""Writes the tables in docs/configuration.md from the settings: `make docs`. Their order and headings are
those of `.env.example`."""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from services.api.settings import ApiSettings
from services.cli.settings import ClientSettings, DoctorSettings, RunSettings
from services.ingest.settings import IngestSettings
from services.monitor.settings import MonitorSettings
from services.notifier.settings import NotifierSettings
from shared.contracts import durations
from shared.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "configuration.md"
EXAMPLE = ROOT / ".env.example"
BEGIN = "<!-- Below this line: made from the settings by `make docs`. -->"
END = "<!-- Above this line: made from the settings by `make docs`. -->"

READERS: dict[type[Settings], str] = {
    IngestSettings: "ingest",
    MonitorSettings: "monitor",
    NotifierSettings: "notifier",
    ApiSettings: "api",
    **dict.fromkeys((RunSettings, ClientSettings, DoctorSettings), "`registry`"),
}


@dataclass(frozen=True)
class Variable:
    default: str
    meaning: str
    readers: str


COMMAND_LINE = {
    "REGISTRY_URL": Variable("", "Where the command line finds a registry on another machine.", "`registry`"),
    "REGISTRY_TOKEN": Variable("", "The token that the command line shows there.", "`registry`"),
}
"""What `services.cli.target` reads without a settings class."""


def written(field: str, info: FieldInfo) -> str:
    """The default of a field, as it stands in `.env`."""
    value: Any = info.get_default(call_default_factory=True, validated_data={"host": ""})
    match value:
        case None | 0 | 0.0 if not isinstance(value, bool):
            return ""
        case float():
            return f"{value:g}/s"
        case timedelta():
            return durations.write(value)
        case time():
            return f"{value:%H:%M}"
        case bool():
            return str(value).lower()
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return ",".join(durations.write(it) if isinstance(it, timedelta) else str(it) for it in value)
        case Path():
            return f"./{value}"
    return str(value)


def meanings(kind: type[Settings]) -> dict[str, str]:
    """The text below each field of this class itself."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }


def variables() -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    kinds: list[type[Settings]] = [Settings, *READERS]
    said = [meanings(kind) for kind in kinds]
    for field in dict.fromkeys(field for kind in READERS for field in kind.model_fields):
        infos = {kind: kind.model_fields[field] for kind in READERS if field in kind.model_fields}
        (default,) = {written(field, info) for info in infos.values()}
        meaning = [texts[field] for texts in said if field in texts]
        assert len(meaning) == 1, f"{field}: say once what it means, in a text below the field: {meaning}"
        shared = field in Settings.model_fields
        readers = "all" if shared else ", ".join(dict.fromkeys(READERS[kind] for kind in infos))
        found[PREFIX + field.upper()] = Variable(default, meaning[0], readers)
    return found | COMMAND_LINE


def example() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each heading of `.env.example`, up to a colon or bracket, with its variables and their values."""
    for section in EXAMPLE.read_text().split("\n# --- ")[1:]:
        heading = re.split(r"[:\n]| \(", section, maxsplit=1)[0]
        yield heading[0].upper() + heading[1:], re.findall(r"^#([A-Z_]+)=(.*)$", section, re.MULTILINE)


def tables() -> str:
    known, lines = variables(), [BEGIN]
    for heading, names in example():
        rows = [(name, known[name]) for name, _ in names if name in known]
        if rows:
            lines += [
                "",
                f"### {heading}",
                "",
                "| variable | default | meaning | read by |",
                "|---|---|---|---|",
            ]
        for name, it in rows:
            default = f"`{it.default}` " if it.default else ""
            lines.append(f"| `{name}` | {default}| {it.meaning} | {it.readers} |")
    return "\n".join([*lines, "", END])


def with_tables(document: str) -> str:
    head, rest = document.split(BEGIN)
    return head + tables() + rest.split(END)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text()))
