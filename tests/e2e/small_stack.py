"""A stack of Airflow and PostgreSQL alone, with a DAG that trains until it is told to end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.stack import environment
from airflow_mlops.stack import stack as stack_module
from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.postgres import Postgres
from airflow_mlops.stack.stack import Stack

HERE = Path(__file__).parent


@contextmanager
def small_stack(
    folder: Path, settings: Callable[[Postgres], Mapping[str, str]], feature_repo: str = "none"
) -> Iterator[Stack]:
    """Yield a stack that runs, with the DAG ``gpus`` and its data.

    :param settings: More of Airflow's settings, ``SECTION__OPTION``.
    :param feature_repo: Name of the folder of a Feast repository, if there is one.
    """
    (folder / "dags").mkdir()
    for name in ("gpus_dag.py", "gpus_code.py"):
        shutil.copy(HERE / name, folder / "dags" / name)
    airflow = environment._airflow

    def with_more(layout: Any, ports: Any, database: Postgres, dags: Any) -> dict[str, str]:
        more = {f"AIRFLOW__{name}": value for name, value in settings(database).items()}
        return airflow(layout, ports, database, dags) | more

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "_airflow", with_more)
        patch.setattr(stack_module, "COMPONENTS", ("postgres", "api-server", "scheduler", "dag-processor"))
        stack = Stack(folder / "home", Ports.free(), dags=folder / "dags", feature_repo=folder / feature_repo)
        try:
            stack.up()
            rng = np.random.default_rng(5)
            x = rng.normal(size=200)
            rows = {"x": x, "z": rng.normal(size=200), "y": x + rng.normal(size=200) > 0}
            pq.write_table(pa.table(rows), stack.layout.home / "rows.parquet")
            yield stack
        finally:
            stack.down(grace=3)


def said(stack: Stack) -> list[list[str]]:
    """Return what trainings have said: what, on which worker, in which process."""
    file = stack.layout.home / "said.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []
