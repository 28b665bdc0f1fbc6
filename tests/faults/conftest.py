"""What was seen, as a table behind the results."""

import pytest

COLUMNS = (
    "seed",
    "heartbeats",
    "refused",
    "kills",
    "changes",
    "repeats",
    "ready after, s",
    "falls found after, s",
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        (report.nodeid.rpartition("::test_")[2], outcome, dict(report.user_properties))
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if "seed" in dict(report.user_properties)
    ]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(f"| fault | {' | '.join(COLUMNS)} | |")
        terminalreporter.write_line("|---" * (len(COLUMNS) + 2) + "|")
    for name, outcome, seen in rows:
        cells = " | ".join(str(seen.get(column, "")) for column in COLUMNS)
        terminalreporter.write_line(f"| {name.replace('_', ' ')} | {cells} | {outcome} |")
