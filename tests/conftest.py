"""Fixtures that every kind of test uses."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serving_fixtures import RunningServer

ROOT = Path(__file__).parent.parent

# Before Airflow is imported anywhere: no example DAGs, no database of the developer's, no telemetry.
os.environ.setdefault("AIRFLOW_HOME", str(ROOT / ".mlops" / "tests-airflow"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "False")
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", GX_ANALYTICS_ENABLED="false", FEAST_USAGE="False", TF_CPP_MIN_LOG_LEVEL="3"
)
sys.path[:0] = [str(ROOT / "dags"), str(ROOT / "feature_repo")]


LONGEST_FIRST = ("containers", "kubernetes", "e2e", "bench", "drills", "integration", "unit", "contract")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest, so that nothing runs alone at the end."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.relative_to(ROOT / "tests").parts[0]))


ON_ONE_STACK = ("tests/e2e/test_main_job.py", "tests/e2e/test_other_models.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker a file at a time, as ``--dist loadfile`` does; but together the files that share a stack."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return ON_ONE_STACK[0] if file in ON_ONE_STACK else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Put the environment back: a command that a test calls in this process may set what its children shall find."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty ``[mlops] home``."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model server that serves nothing yet."""
    from tests.serving_fixtures import running_server

    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def code_path() -> str:
    """The folder of the example's DAG files."""
    return str(ROOT / "dags")
