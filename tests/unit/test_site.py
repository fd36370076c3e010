"""The site of the guides: it is built without a warning, and no class is without an example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))

from reference import KINDS, examples

WITHOUT = {
    "ReportConfigErrorOperator",  # all that it does is fail
    *("FeastHook", "LedgerHook", "MLflowHook", "TFServingHook"),  # operators open them
}


def test_every_link_of_the_site_leads_somewhere(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "one", [one.__name__ for ones in KINDS.values() for one in ones if one.__name__ not in WITHOUT]
)
def test_every_class_has_an_example(one: str):
    assert examples(one)
