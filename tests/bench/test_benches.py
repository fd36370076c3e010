"""Every bench still runs, on little data, and prints its figures with their bounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
ON_A_STACK = {"train_dag", "gpu_queue"}  # tests/e2e runs them, on the stacks that it has anyway
WITH_A_STACK = {"many_models"}  # of its own, which takes half a minute
BY_HAND = {"backfill_dag"}  # minutes, on a stack of its own
ON_FLIGHTS = {"online_read", "point_in_time", "training_memory"}

FIGURE = re.compile(r"^.+: -?\d+\.\d\d  \(bound: at (least|most) \S+(, MISSED)?\)", re.MULTILINE)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the benches share the flights that the first of them lands."""
    return tmp_path_factory.mktemp("flights")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in WITH_A_STACK else [])
        for name in sorted({file.stem for file in BENCH.glob("[a-z]*.py")} - ON_A_STACK - BY_HAND)
    ],
)
def test_small_setting(name: str, homes: Path) -> None:
    command = [sys.executable, str(BENCH / f"{name}.py"), "--small"]
    if name in ON_FLIGHTS:
        command += ["--homes", str(homes)]
    environment = {**os.environ, "PYTHONPATH": str(BENCH.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FIGURE.search(done.stdout), done.stdout
    assert re.search(r"^(missed: .+|every bound is kept)$", done.stdout, re.MULTILINE), done.stdout
