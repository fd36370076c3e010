# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops experiment``: train and judge a pipeline as it is, or with other settings, and register nothing."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.commands.place import (
    open_home,
    open_ledger,
    open_location,
    open_store,
    place_options,
    repo_option,
    use_laptop_connections,
)
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.moments import parse_moment

if TYPE_CHECKING:
    from airflow_mlops.engine.experiment import Experiment
    from airflow_mlops.pipeline import ModelPipeline


def add_experiment(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    experiment = commands.add_parser(
        "experiment",
        parents=[place_options(), repo_option()],
        help="train and judge a pipeline with other settings, beside its production: nothing is registered",
    )
    experiment.add_argument("pipeline", metavar="PIPELINE", help="DAG file and name, such as dags/churn.py:churn")
    experiment.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of an argument, such as window=30d or train.seed=3; may be repeated",
    )
    experiment.add_argument(
        "--as-of", metavar="TIME", help="train on what was known then (default: all that is complete)"
    )
    experiment.add_argument(
        "--mlflow", default="mlflow_default", metavar="CONNECTION", help="Airflow connection of MLflow; '' for none"
    )
    experiment.set_defaults(run=_experiment)


def _experiment(options: argparse.Namespace) -> None:
    folder, pipeline = load_pipeline(options.pipeline)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    found = run(pipeline.derive(**changes_of(options.changes)), folder, options)
    print(found)
    if found.run_id:
        print(f"MLflow run {found.run_id}")


def run(pipeline: ModelPipeline, code_path: Path, options: argparse.Namespace) -> Experiment:
    """Run an experiment where some options say: ``home``, ``ledger``, ``repo``, ``mlflow``, ``as_of``."""
    from airflow_mlops.engine.experiment import run_experiment

    home = open_home(options)
    use_laptop_connections(home)
    ledger = open_ledger(options)
    registry = None
    if options.mlflow:
        from airflow_mlops.hooks.mlflow import MLflowHook

        registry = MLflowHook(options.mlflow).get_conn()
    return run_experiment(
        pipeline,
        location=open_location(options),
        store=open_store(options, ledger),
        ledger=ledger,
        code_path=str(code_path),
        registry=registry,
        as_of=parse_moment(options.as_of, "as_of") if options.as_of else None,
        log=logging.getLogger("airflow_mlops"),
    )


def changes_of(said: list[str]) -> dict[str, Any]:
    """Return ``window=30d`` and ``train.seed=3`` as arguments of ``ModelPipeline.derive``.

    :raises ConfigError: when one is no ``NAME=VALUE``.
    """
    import yaml

    changes: dict[str, Any] = {}
    for one in said:
        name, there, text = one.partition("=")
        if not there or not name:
            raise ConfigError(f"--set {one} says no value.", hint="Write NAME=VALUE, such as --set window=30d.")
        value = yaml.safe_load(text)
        part, dot, argument = name.partition(".")
        if dot:
            known = changes.setdefault(part, {})
            changes[part] = {**(known if isinstance(known, Mapping) else {}), argument: value}
        else:
            changes[name] = value
    return changes
