"""The dashboard and the alerts under deploy/: they ask only for metrics that there are, and fire in time."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTED = dict(
    re.findall(r"^\| `(registry_\w+)` \| (\w+) \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
)
FOREIGN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
"""Metrics that every Python process has, or that Prometheus makes."""
EXPR = re.compile(r"^ +expr: (?:>-\n((?: {10}.*\n)+)|(.*))", re.MULTILINE)


def alerts() -> list[str]:
    return [block or line for block, line in EXPR.findall((ROOT / "deploy/alerts.yml").read_text())]


def panels() -> list[dict[str, Any]]:
    return [it for it in json.loads((ROOT / "deploy/grafana.json").read_text())["panels"] if "targets" in it]


def names(expr: str) -> Iterator[str]:
    """The metrics in an expression, histograms by their own name."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on|without) \([^)]*\)', "", expr)
    for name in re.findall(r"[a-z_][a-z0-9_]*(?![a-z0-9_]*\s*\()", bare):
        if name not in ("or", "and", "unless", "by", "on", "without"):
            yield re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize(
    "expr", [*alerts(), *(target["expr"] for it in panels() for target in it["targets"])]
)
def test_every_expression_asks_for_metrics_that_are_documented(expr: str) -> None:
    found = set(names(expr))
    assert found
    assert found <= DOCUMENTED.keys() | FOREIGN


def test_the_dashboard_shows_every_metric_and_can_be_imported() -> None:
    shown = {name for it in panels() for target in it["targets"] for name in names(target["expr"])}
    assert DOCUMENTED.keys() <= shown
    dashboard = json.loads((ROOT / "deploy/grafana.json").read_text())
    assert [it["type"] for it in dashboard["templating"]["list"]] == ["datasource"]
    assert {it["datasource"]["uid"] for it in panels()} == {"${datasource}"}
    ids = [it["id"] for it in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [it["gridPos"] for it in dashboard["panels"]]
    assert all(it["x"] >= 0 and it["x"] + it["w"] <= 24 for it in places)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_no_fault_and_the_alerts_fire_when_they_should() -> None:
    for command in (
        ("check", "rules", "deploy/alerts.yml"),
        ("check", "config", "--syntax-only", "deploy/prometheus.yml"),
        ("test", "rules", "tests/contract/alerts.yml"),
    ):
        done = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
