"""Requests made up from the services' own descriptions: none is answered with a server error.

`FUZZ=5000` tries so many per operation; `make fuzz` does.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.servers import Process, mongo_server, nats_server, service

EXAMPLES = int(os.environ.get("FUZZ", "15"))
"""Per operation."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    """Both services, ready, with a service in the record."""
    folder: Path = tmp_path_factory.mktemp("openapi")
    nats, mongo = nats_server(folder).start(), mongo_server(folder).start()
    url = f"nats://127.0.0.1:{nats.port}"
    parts = {
        "ingest": service("ingest", folder, url).start(),
        "notifier": service("notifier", folder, url).start(),
        "api": service(
            "api", folder, url, mongodb_url=f"mongodb://127.0.0.1:{mongo.port}/?journal=true"
        ).start(),
    }
    with httpx.Client() as client:
        for part in parts.values():
            while client.get(f"http://127.0.0.1:{part.port}/readyz").status_code != 200:
                pass
        client.post(f"http://127.0.0.1:{parts['api'].port}/service", json={"name": "billing.worker"})
    yield parts
    for server in (*parts.values(), mongo, nats):
        server.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "operations"), [("api", 23), ("ingest", 21)])
def test_no_request_is_answered_with_a_server_error(
    running: dict[str, Process], name: str, operations: int
) -> None:
    base = f"http://127.0.0.1:{running[name].port}"
    document = httpx.get(f"{base}/openapi.json").json()
    document["paths"].pop("/events", None)  # it never ends; test_api_views.py follows it
    for operation in (each for path in document["paths"].values() for each in path.values()):
        names = [(each["in"], each["name"]) for each in operation.get("parameters", ())]
        assert len(names) == len(set(names)), names
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=base)
    count = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy() | operation.as_strategy(GenerationMode.NEGATIVE))
        def check(case: Any) -> None:
            case.call_and_validate(
                checks=(not_a_server_error, content_type_conformance, response_schema_conformance)
            )

        check()
        count += 1
    assert count >= operations
    assert httpx.get(f"{base}/readyz").status_code == 200
    assert "Traceback" not in running[name].log.read_text()
