"""The clients that are installed in seconds, and the requests that are known from sources alone: `make test`.

One test, so that one system is started for all.
"""

import pytest

from tests.clients import test_healthchecks, test_kuma_and_gatus, test_management, test_sentry
from tests.clients.conftest import FULL, Client, Registry


@pytest.mark.skipif(FULL, reason="each is a test of its own")
def test_clients(registry: Registry, client: Client) -> None:
    test_healthchecks.test_healthchecks_decorator(registry, client)
    test_healthchecks.test_healthchecks_wrapper(registry, client)
    test_sentry.test_sentry_sdk(registry, client)
    test_sentry.test_the_lines_of_connect(registry, client)
    test_sentry.test_sentry_by_curl(registry, client)
    test_sentry.test_a_start_that_comes_after_its_end(registry)
    test_kuma_and_gatus.test_gatus(registry, client)
    test_management.test_runitor(registry)
    test_management.test_terraform(registry)
    test_management.test_ansible(registry)
