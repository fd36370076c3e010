"""The table at the end of a run: which drill, which legs, how it went, how long until it was seen."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    legs: dict[tuple[str, str], list[pytest.TestReport]] = defaultdict(list)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            path, _, name = report.nodeid.partition("::")
            if report.when == "call" and Path(path).parent.name == "drills":
                drill = Path(path).stem.removeprefix("test_").replace("_", " ")
                legs[drill, name.partition("[")[0].removeprefix("test_").replace("_", " ")].append(report)
    if not legs:
        return
    terminalreporter.section("drills")
    width = max(len(drill) for drill, _ in legs)
    for (drill, leg), reports in sorted(legs.items()):
        held = sum(report.passed for report in reports)
        slowest = max(report.duration for report in reports)
        terminalreporter.line(f"{drill:{width}}  {leg:45} {held} of {len(reports)} held, up to {slowest:.1f} s")
