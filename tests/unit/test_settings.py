"""What is printed when a variable is wrong: its name, what is accepted, and never a secret."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.api.settings import ApiSettings
from services.cli import doctor, remote_doctor
from services.cli.settings import ClientSettings, DoctorSettings, RunSettings
from services.ingest.settings import IngestSettings
from services.monitor.settings import MonitorSettings
from services.notifier.channels.configured import configured_channels
from services.notifier.settings import NotifierSettings
from shared.messaging.connection import access
from shared.settings import Settings, concealed, load

KINDS: list[type[Settings]] = [
    *(Settings, RunSettings, ClientSettings, DoctorSettings),
    *(IngestSettings, MonitorSettings, NotifierSettings, ApiSettings),
]
FIELDS = [(kind, field) for kind in KINDS for field in kind.__annotations__ if field in kind.model_fields]
CONCEALED = [(kind, field) for kind, field in FIELDS if concealed(kind, field) is not None]
PLAIN = [(kind, field) for kind, field in FIELDS if concealed(kind, field) is None]
MARKER = "hunter2"
NOT_SECRET = {"nats_creds", "nats_ca", "data_dir", "mongodb_database", "telegram_chat_id"}
"""Files, a name, and chats, which people need to see."""

BAD = [
    *(f"nats://u:{MARKER}/x@127.0.0.1:4222", f"nats://u:{MARKER}@x@127.0.0.1:99999", f"ws://u:{MARKER}@h:80"),
    *(
        f"nats://{MARKER}/12@h:4222",
        f"nats://u:12/{MARKER}@h",
        f"nats://u:{MARKER}#x@h",
        f"nats://u:{MARKER}?x@h",
    ),
    *(f"nats://u:{MARKER}@", f"nats://u:{MARKER}@:4222", f"nats://u:{MARKER}@h:0", f"nats://u:a,{MARKER}@h"),
    *(f"mongodb://u:{MARKER}/@127.0.0.1", f"mongodb://u:%zz{MARKER}@h", f"mongodb://u:{MARKER}@h:99999"),
    *(
        f"mongodb://u:{MARKER}@h/?readPreference={MARKER}",
        f"mongodb://[::1{MARKER}",
        f"mongodb://u:{MARKER}@",
    ),
    *(
        f"http://0177.0.0.1/{MARKER}",
        f"http://u:{MARKER}@0177.0.0.1/",
        f"http://h:{MARKER}/",
        f"http:///{MARKER}",
    ),
    *(
        f"https://u:{MARKER}@ex\u2100mple/",
        f"ftp://u:{MARKER}@h/",
        f"http://[{MARKER}",
        f"http://xn--/{MARKER}",
    ),
    *(
        MARKER,
        f"{MARKER}\x07",
        f"whsec_{MARKER}!",
        f"{MARKER} two words",
        f":{MARKER}",
        f"{MARKER}://",
        "," + MARKER,
    ),
]
ANYTHING = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise's own


def said_of(kind: type[Settings], variable: str, value: str) -> str:
    """What the start prints, with this variable alone. It goes on, or ends with code 2."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as environment, suppress(SystemExit):
        environment.setenv(variable, value)
        environment.setattr("sys.stderr.write", said.append)
        environment.setattr("shared.settings.SystemExit", _Ended, raising=False)
        settings = load(kind)
        access(settings)
        if isinstance(settings, NotifierSettings):
            configured_channels(settings, None)
    return "".join(said)


class _Ended(SystemExit):
    def __init__(self, code: int) -> None:
        assert code == 2
        super().__init__(code)


def test_every_field_that_sounds_secret_is_one() -> None:
    for kind, field in PLAIN:
        secret = re.search("token|secret|invite|password|url|key|cred", field) and field not in NOT_SECRET
        assert not secret or field in ("rate_limit_per_token",), f"{kind.__name__}.{field} has no Concealed"


@pytest.mark.parametrize(("kind", "field"), CONCEALED)
def test_a_secret_is_in_no_message(kind: type[Settings], field: str) -> None:
    variable = f"REGISTRY_{field.upper()}"
    for value in BAD:
        said = said_of(kind, variable, value)
        assert MARKER not in said
        assert not said or variable in said


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(CONCEALED),
    st.sampled_from(
        ["", "nats://", "mongodb://", "http://", "https://u:", "nats://u:", "mongodb://u:", "whsec_"]
    ),
    ANYTHING,
    ANYTHING,
)
def test_a_secret_is_in_no_message_whatever_stands_around_it(
    which: tuple[type[Settings], str], scheme: str, before: str, after: str
) -> None:
    kind, field = which
    assert MARKER not in said_of(kind, f"REGISTRY_{field.upper()}", f"{scheme}{before}{MARKER}{after}")


@pytest.mark.parametrize(("kind", "field"), PLAIN)
def test_of_what_is_no_secret_the_value_is_shown(kind: type[Settings], field: str) -> None:
    said = said_of(kind, f"REGISTRY_{field.upper()}", "\x07 no such thing")
    assert not said or f"REGISTRY_{field.upper()}='\\x07 no such thing'" in said
    assert "\x07" not in said


@pytest.mark.parametrize(("kind", "field"), [*FIELDS, *((RunSettings, it) for it in Settings.model_fields)])
def test_one_wrong_value_is_one_message(kind: type[Settings], field: str) -> None:
    for value in ("\x07 no such thing", "-1", "0"):
        assert said_of(kind, f"REGISTRY_{field.upper()}", value).count("\n") <= 1


def test_what_two_services_have_is_checked_before_they_are_started() -> None:
    """Or each of them would say that it is wrong."""
    services = (IngestSettings, MonitorSettings, NotifierSettings, ApiSettings)
    fields = [field for kind in services for field in kind.model_fields]
    tokens = {"api_token", "read_token"}  # nothing of them can be wrong in one service alone
    assert {it for it in fields if fields.count(it) > 1} - tokens <= RunSettings.model_fields.keys()


def test_thresholds_are_told_as_they_are_written() -> None:
    assert said_of(MonitorSettings, "REGISTRY_SILENT_AFTER", "90m").endswith("not 1h30m < 1h < 7d\n")


@pytest.mark.parametrize(
    ("kind", "variable", "accepted", "refused"),
    [
        (
            *(MonitorSettings, "REGISTRY_NATS_URL"),
            ["nats://h", "tls://h:1", "nats://a:1,nats://b:2", "nats://u:a%2Fb@h", "nats://[::1]:4222/"],
            [
                "",
                "h:4222",
                "ws://h",
                "wss://h:443",
                "http://h",
                "nats://",
                "nats://:4222",
                "nats://h:0",
                "nats://h:65536",
                "nats://h:x",
                "nats://h/path",
                "nats://u:a/b@h",
                "nats://h,ws://i",
                "nats:// h",
            ],
        ),
        (
            *(ApiSettings, "REGISTRY_MONGODB_URL"),
            [
                "mongodb://h",
                "mongodb://a:1,b:2/?replicaSet=x",
                "mongodb+srv://u:p@h.example",
                "mongodb://u:%40@h",
            ],
            [
                "",
                "h",
                "mongodb://",
                "mongodb://h:0",
                "mongodb://h:65536",
                "mongodb://u:a/b@h",
                "mongodb://u:a@b@h",
                "mongodb://u:%@h",
                "mongodb+srv://h:1",
                "mongodb://h/?unknown=1",
                "http://h",
            ],
        ),
        (
            *(NotifierSettings, "REGISTRY_DEADMAN_URL"),
            ["", "http://h", "https://u:p@h:1/x?y#z", "http://[::1]/", "http://127.0.0.1/"],
            [
                "h",
                "http://",
                "http:///x",
                "http://h:0",
                "http://h:65536",
                "http://0177.0.0.1/",
                "ftp://h",
                "http://h x/",
                "http://xn--/",
            ],
        ),
    ],
)
def test_addresses(kind: type[Settings], variable: str, accepted: list[str], refused: list[str]) -> None:
    assert {url: said_of(kind, variable, url) for url in accepted} == dict.fromkeys(accepted, "")
    for url in refused:
        assert variable in said_of(kind, variable, url), url


def test_a_password_may_hold_anything_that_is_escaped() -> None:
    options = access(Settings(nats_url=("nats://u:a%2Fb%40c@h:1", "nats://u:a%2Fb%40c@i:2")))
    assert (options["user"], options["password"]) == ("u", "a/b@c")
    assert options["servers"] == ["nats://h:1", "nats://i:2"]
    two = ("nats://u:a@h:1", "nats://v:b@i:2")
    assert access(Settings(nats_url=two))["servers"] == list(two)


@pytest.mark.parametrize(
    ("kind", "variable", "value", "accepted"),
    [
        (RunSettings, "DIGEST_TIME", "24:00", "HH:MM such as 09:00, or nothing"),
        (RunSettings, "DIGEST_TIME", "0", "HH:MM such as 09:00, or nothing"),
        (Settings, "RATE_LIMIT_PER_ADDRESS", "5/d", "a number per s, m or h, such as 100/s"),
        (Settings, "HEARTBEATS_BYTES", "99MB", "100MB or more, such as 500MB, 10GB, 1TB"),
        (
            Settings,
            "TRUSTED_PROXIES",
            "private,x",
            "networks such as 10.0.0.0/8 with commas between, or private",
        ),
        (Settings, "NATS_CREDS", "/nope", "a file with NATS credentials"),
        (Settings, "NATS_CA", "/nope", "a file with certificates (PEM)"),
        (Settings, "TIMEZONE", "localtime", ""),
    ],
)
def test_a_wrong_value_is_told_with_what_is_accepted(
    kind: type[Settings], variable: str, value: str, accepted: str
) -> None:
    said = said_of(kind, f"REGISTRY_{variable}", value)
    assert said.startswith(f"REGISTRY_{variable}={value!r} is not accepted")
    assert f"accepted: {accepted}" in said if accepted else "must be an IANA time zone such as UTC" in said


def test_the_doctor_finds_the_settings_of_each_service() -> None:
    for name in doctor.SERVICES:
        assert [finding.part for finding in doctor._configuration(name)] == [f"settings of {name}"]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({}, "http://127.0.0.1:8001"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8001"),
        ({"host": "::1", "api_port": 9002, "ingest_port": 9001}, "http://[::1]:9001"),
        ({"host": "0.0.0.0", "public_url": "http://box.lan:8002"}, "http://box.lan:8001"),
        ({"host": "0.0.0.0", "public_url": "https://registry.example.com"}, "https://registry.example.com"),
        ({"public_url": "https://registry.example.com"}, "https://registry.example.com"),
        ({"public_url": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
    ],
)
def test_heartbeats_are_told_to_go_to_the_front_door_or_beside_the_api(
    chosen: dict[str, Any], wanted: str
) -> None:
    assert ApiSettings(**chosen).ingest_url == wanted


def test_the_doctor_knows_every_variable_that_is_documented_and_guesses_what_another_one_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    files = [
        root / ".env.example",
        root / "docker-compose.yml",
        *(root / "deploy").iterdir(),
        root / "README.md",
    ]
    named = {
        name for file in files for name in re.findall(r"\bREGISTRY_([A-Z][A-Z_]*[A-Z])\b", file.read_text())
    }
    assert "SILENT_AFTER" in named
    assert named - remote_doctor.known_variables() == set()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGISTRY_SILENT_AFTR", "1h")
    monkeypatch.setenv("REGISTRY_QWERTZ", "1h")
    Path(".env").write_text("REGISTRY_PUBLIC_URI=a\nREGISTRY_TICK=1s\nOTHER=1\n")
    assert [finding.said for finding in remote_doctor.unknown_variables()] == [
        "REGISTRY_PUBLIC_URI: did you mean REGISTRY_PUBLIC_URL?",
        "REGISTRY_QWERTZ: there is no such variable",
        "REGISTRY_SILENT_AFTR: did you mean REGISTRY_SILENT_AFTER?",
    ]
    assert all(finding.ok for finding in remote_doctor.unknown_variables())
