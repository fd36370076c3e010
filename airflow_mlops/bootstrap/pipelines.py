"""The pipelines that a folder of DAG files has."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from airflow_mlops.engine.entrypoints import load_module
from airflow_mlops.exceptions import ConfigError, MlopsError, did_you_mean
from airflow_mlops.fleet import Fleet
from airflow_mlops.pipeline import ModelPipeline


@dataclass(frozen=True)
class Found:
    """A pipeline, the DAG file that makes its DAGs, and their ids."""

    file: Path
    pipeline: ModelPipeline
    dag_ids: tuple[str, ...]


def pipelines_in(folder: Path, models: Sequence[str] = ()) -> list[Found]:
    """Return the pipelines of the DAG files that Airflow finds below a folder, if they have a DAG that trains and one
    that deploys.

    :param models: Those of these models only; default is all.
    :raises ConfigError: when there is none, or none of such a model.
    :raises MlopsError: when a file cannot be imported.
    """
    from airflow.utils.file import list_py_file_paths

    found: dict[str, Found] = {}
    for file in sorted(map(Path, list_py_file_paths(folder))):
        # What does not speak of it makes no pipeline, and may be slow to import.
        if "airflow_mlops" in file.read_text(encoding="utf-8", errors="replace"):
            for one in _found(file, _imported(file)):
                found.setdefault(one.pipeline.model, one)
    if unknown := [model for model in models if model not in found]:
        raise ConfigError(
            f"No DAG file has a pipeline of {unknown[0]!r}.{did_you_mean(unknown[0], found)}",
            detail=f"{folder}: {', '.join(found) or 'no pipelines'}",
            hint="Name a model of these, or none for all.",
        )
    if not found:
        raise ConfigError(
            "No DAG file has a pipeline that trains and deploys.",
            detail=str(folder),
            hint="Begin with one: airflow-mlops new; or pass --dags FOLDER.",
        )
    return [one for model, one in found.items() if not models or model in models]


def _imported(file: Path) -> ModuleType:
    try:
        return load_module(file.stem, str(file.parent))
    except MlopsError:
        raise
    except Exception as error:
        trace = traceback.format_exception(error, limit=-3)
        raise MlopsError(
            f"The DAG file {file.name} cannot be imported: {type(error).__name__}.",
            detail=f"{file}\n{''.join(trace).rstrip()}",
            hint="Correct what the last line says.",
        ) from None


def _found(file: Path, module: ModuleType) -> Iterator[Found]:
    from airflow.sdk import DAG

    dags = [value.dag_id for value in vars(module).values() if isinstance(value, DAG)]
    for pipeline in _pipelines(module):
        ours = tuple(dag_id for dag_id in dags if dag_id.rpartition(".")[0] == pipeline.model)
        if {f"{pipeline.model}.train", f"{pipeline.model}.deploy"} <= set(ours):
            yield Found(file, pipeline, ours)


def _pipelines(module: ModuleType) -> Iterator[ModelPipeline]:
    for value in vars(module).values():
        if isinstance(value, ModelPipeline):
            yield value
        elif isinstance(value, Fleet):
            made, faults = value.pipelines()
            for error in faults.values():
                raise error
            yield from made.values()
