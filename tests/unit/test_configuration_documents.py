"""docs/configuration.md, `.env.example` and Compose say of the settings what they are; `make env` writes a
`.env`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from services.api.settings import ApiSettings
from services.ingest.settings import IngestSettings
from shared.settings import PREFIX, Settings
from tests.settings_table import DOCUMENT, EXAMPLE, READERS, ROOT, example, variables, with_tables

COMPOSE = (ROOT / "docker-compose.yml").read_text() + (ROOT / "deploy/https.yml").read_text()
IN_COMPOSE = dict(re.findall(r"\$\{(\w+)(?::?-([^}]*))?", COMPOSE))
OTHERS_IN_COMPOSE = {
    "REGISTRY_PUBLIC_URL": "http://127.0.0.1:8080",
    "REGISTRY_LOG_FORMAT": "json",
    "REGISTRY_TRUSTED_PROXIES": "private",
}
SECRETS = {
    *(
        f"REGISTRY_NATS_{user}_PASSWORD"
        for user in ("INGEST", "MONITOR", "NOTIFIER", "API", "OPERATOR", "SENDER")
    ),
    *("REGISTRY_MONGODB_PASSWORD", "REGISTRY_API_TOKEN", "REGISTRY_INGEST_TOKEN"),
}


def test_the_tables_are_what_the_settings_say() -> None:
    assert DOCUMENT.read_text() == with_tables(DOCUMENT.read_text()), "run `make docs`"


@pytest.mark.parametrize("kind", READERS)
def test_a_default_is_written_as_it_is_read(kind: type[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    known = variables()
    for field in kind.model_fields:
        monkeypatch.delenv(PREFIX + field.upper(), raising=False)
    by_default = kind(_env_file=None)  # type: ignore[call-arg]
    for field in kind.model_fields:
        name = PREFIX + field.upper()
        if known[name].default:
            monkeypatch.setenv(name, known[name].default)
    assert kind(_env_file=None) == by_default  # type: ignore[call-arg]


def test_the_example_has_every_variable_with_its_default() -> None:
    values = [pair for _, pairs in example() for pair in pairs]
    assert len(values) == len(dict(values))
    assert EXAMPLE.read_text().count("\n#REGISTRY_") + EXAMPLE.read_text().count("\n#OTEL_") == len(values)
    known = {name: it.default for name, it in variables().items()}
    assert dict(values) == IN_COMPOSE | known


def test_compose_has_the_same_defaults() -> None:
    known = {name: it.default for name, it in variables().items()} | OTHERS_IN_COMPOSE
    for name, default in IN_COMPOSE.items():
        assert default == known.get(name, default)
        assert f"`{name}`" in DOCUMENT.read_text() or name.startswith("OTEL_")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    for name in ("Makefile", "docker-compose.yml", ".env.example", "deploy/env.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make_env(clone: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = ["make", "--no-print-directory", "env", f"PYTHON={sys.executable} -I", *more]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, umask=0)


def test_make_env_writes_fresh_secrets_for_compose(clone: Path) -> None:
    done = make_env(clone)
    assert done.returncode == 0, done.stderr
    file = clone / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    found = dotenv_values(file)
    assert found.keys() == SECRETS
    assert len(set(found.values())) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{48}", str(secret)) for secret in found.values())
    assert not any(str(secret) in done.stdout for secret in found.values())
    for kind in (IngestSettings, ApiSettings):
        token = kind(_env_file=file).ingest_token[0]  # type: ignore[call-arg]
        assert token.get_secret_value() == found["REGISTRY_INGEST_TOKEN"]
    file.unlink()
    make_env(clone, "PUBLIC_URL=https://registry.example.com")
    again = dotenv_values(file)
    assert again.pop("REGISTRY_PUBLIC_URL") == "https://registry.example.com"
    assert not set(again.values()) & set(found.values())


def test_make_env_leaves_what_is_there(clone: Path) -> None:
    (clone / ".env").write_text("REGISTRY_PORT=81\n")
    done = make_env(clone)
    assert done.returncode != 0
    assert "There is a .env already" in done.stderr
    assert (clone / ".env").read_text() == "REGISTRY_PORT=81\n"
    (clone / ".env").unlink()
    (clone / ".env").symlink_to(clone / "elsewhere")
    assert make_env(clone).returncode != 0
    assert not (clone / "elsewhere").exists()
