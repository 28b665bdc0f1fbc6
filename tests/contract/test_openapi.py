"""Requests made up from the API's own description: none is answered with a server error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.integration.test_api import _api
from tests.servers import Process, mongo_server, nats_server

EXAMPLES = 40
"""Per operation."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    nats, mongo = nats_server(folder).start(), mongo_server(folder).start()
    url = f"mongodb://127.0.0.1:{mongo.port}/?journal=true"
    process = _api(folder, f"nats://127.0.0.1:{nats.port}", url).start()
    client = httpx.Client(base_url=f"http://127.0.0.1:{process.port}")
    while client.get("/readyz").status_code != 200:
        pass
    client.post("/service", json={"name": "billing.worker"})
    client.close()
    yield process
    for server in (process, mongo, nats):
        server.kill()


def test_no_request_is_answered_with_a_server_error(api: Process) -> None:
    base = f"http://127.0.0.1:{api.port}"
    document = httpx.get(f"{base}/openapi.json").json()
    del document["paths"]["/events"]  # it never ends; test_api_views.py follows it
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
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(checks=(not_a_server_error,))

        check()
        count += 1
    assert count >= 17
    assert httpx.get(f"{base}/readyz").status_code == 200
