"""Where the command line finds the registry, and with which token."""

from pathlib import Path

import pytest

from services.cli.target import Target, WrongVariable, find_target


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_target() == Target("http://127.0.0.1:8002", "http://127.0.0.1:8001")
    monkeypatch.setenv("REGISTRY_HOST", "::")
    monkeypatch.setenv("registry_api_port", "1")
    monkeypatch.setenv("REGISTRY_READ_TOKEN", "r")
    monkeypatch.setenv("REGISTRY_INGEST_TOKEN", "ana:i, j")
    assert find_target() == Target("http://[::1]:1", "http://[::1]:8001", "r", "ana:i")
    monkeypatch.setenv("REGISTRY_API_TOKEN", "a")
    assert find_target().api_token == "a"
    monkeypatch.setenv("REGISTRY_TOKEN", "t")
    assert find_target()[2:] == ("t", "t")


def test_a_registry_anywhere_is_shown_no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("REGISTRY_API_TOKEN=a\nREGISTRY_INGEST_TOKEN=i\nREGISTRY_URL=http://other\n")
    monkeypatch.setenv("REGISTRY_URL", "https://there.example/")
    assert find_target() == Target("https://there.example", "https://there.example")
    monkeypatch.setenv("REGISTRY_TOKEN", "t")
    assert find_target() == Target("https://there.example", "https://there.example", "t", "t")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("URL", "there.example"),
        ("URL", "http://u:SECRET@there.example"),
        ("URL", "http://there.example/path"),
        ("TOKEN", "SECRET\n"),
        ("TOKEN", "SECRETä"),
        ("API_PORT", "0"),
        ("INGEST_PORT", "http"),
    ],
)
def test_a_wrong_variable_is_named_and_no_secret_is_said(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"REGISTRY_{variable}", value.replace("\n", "\x07x"))
    with pytest.raises(WrongVariable, match=f"REGISTRY_{variable}") as said:
        find_target()
    assert "SECRET" not in str(said.value)
    assert "accepted: " in str(said.value)
