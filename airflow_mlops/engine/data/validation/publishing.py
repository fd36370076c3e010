"""Where a result goes besides the ledger: an MLflow run, the library's own Data Docs, a quarantine folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.contracts import ValidationResult
from airflow_mlops.engine.data.files import sync, temporary_sibling
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.shared import send

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_to_mlflow(result: ValidationResult, run_id: str, client: MlflowClient) -> None:
    """Log a result into a run: ``validation/<suite>.json``, and how many rows there were and expectations failed."""
    name = file_name(result.suite)
    client.log_text(run_id, result.to_json(), f"validation/{name}.json")
    client.log_metric(run_id, f"validation.{name}.failed", len(result.failed))
    client.log_metric(run_id, f"validation.{name}.rows", result.rows)


def quarantine(result: ValidationResult, files: Sequence[Path], folder: Path) -> Path:
    """Copy a refused batch aside, with what was wrong with it; all of it is there, or nothing.

    :param folder: Quarantine of the batch's dataset and key; the copy is named by the batch's hash.
    :returns: The folder of the copy, which is there from an earlier attempt if it is the same batch.
    """
    final = folder / result.batch_hash[:16]
    if final.exists():
        send(final)
        return final
    made = temporary_sibling(final)
    made.mkdir()
    try:
        for file in files:
            with readable(file):
                shutil.copyfile(file, made / file.name)
            sync(made / file.name)
        (made / "result.json").write_text(result.to_json(), encoding="utf-8")
        sync(made / "result.json")
        sync(made)
        send(made, final)
        if not final.exists():
            made.rename(final)
        sync(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return final


def file_name(name: str) -> str:
    """Return a name that is good for a file, a folder and a metric."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"
