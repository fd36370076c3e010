"""A real stack for end-to-end tests: on free ports, below a temporary folder, with the example's own code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_mlops.bootstrap import watch
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.demo.flights import DAYS_LATER
from airflow_mlops.stack import environment
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.stack import Stack
from tests.e2e.shops import SHOPS

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent.parent
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
LATER = YESTERDAY - date(2013, 2, 1)
"""How much later everything happens: the last day that lands is yesterday, so that schedules find their data."""
SECRET = "planted-secret-9b1e"
"""Password of the connection to MLflow."""


@pytest.fixture(scope="package")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's DAG folder, with a pipeline that a month of data is enough for."""
    folder = tmp_path_factory.mktemp("e2e") / "dags"
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "dags", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def stack(dags: Path) -> Iterator[Stack]:
    """A stack that is not started yet; it is stopped, whatever happens."""
    with pytest.MonkeyPatch.context() as patch:
        connections = environment._connections

        def with_more(*arguments: Any) -> dict[str, str]:
            made = connections(*arguments)
            mlflow = json.loads(made["AIRFLOW_CONN_MLFLOW_DEFAULT"])
            more = {"MLFLOW_DEFAULT": {**mlflow, "login": "me", "password": SECRET}}
            more |= {shop.upper(): {"conn_type": "feast", "host": str(dags.parent / f"repo_{shop}")} for shop in SHOPS}
            return made | {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in more.items()}

        patch.setattr(environment, "_connections", with_more)
        patch.setenv(DAYS_LATER, str(LATER.days))
        stack = Stack(dags.parent / "home", Ports.free(), dags=dags, feature_repo=ROOT / "feature_repo")
        yield stack
        stack.down()


CHROMIUM = "chromium"
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of the machine's Chromium. Without one the test is skipped; but it fails where ``CI`` is set."""
    chromium = shutil.which(CHROMIUM)
    if chromium is None:
        words = "There is no Chromium to open the forms in: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(words)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture(scope="package")
def watcher(stack: Stack) -> Iterator[Watcher]:
    """Runs DAGs on the stack; looks twice a second."""
    with AirflowApi(stack.airflow_url) as airflow, pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_POLL", 0.5)
        yield Watcher(airflow, stack)
