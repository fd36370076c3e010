# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops rerun``: train a registered version again, and say whether the same comes out."""

from __future__ import annotations

import argparse
from pathlib import Path

from airflow_mlops.commands.place import open_home, place_options, use_laptop_connections
from airflow_mlops.durations import parse_duration


def add_rerun(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    rerun = commands.add_parser(
        "rerun",
        parents=[place_options()],
        help="train a registered version again, and say whether weights and metrics are the same",
    )
    rerun.add_argument("model", metavar="MODEL")
    rerun.add_argument("version", metavar="VERSION", type=int)
    rerun.add_argument("--code", metavar="FOLDER", type=Path, help="where its code lies (default: where it lay then)")
    rerun.add_argument("--timeout", default="2h", metavar="TIME", help="longest training (default: %(default)s)")
    rerun.add_argument(
        "--mlflow",
        default="mlflow_default",
        metavar="CONNECTION",
        help="Airflow connection of MLflow (default: %(default)s)",
    )
    rerun.set_defaults(run=_rerun)


def _rerun(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.training.rerun import rerun
    from airflow_mlops.hooks.mlflow import MLflowHook

    home = open_home(options)
    use_laptop_connections(home)
    registry = MLflowHook(options.mlflow).get_conn()
    timeout = parse_duration(options.timeout).total_seconds()
    code = str(options.code.resolve()) if options.code else None
    again = rerun(registry, home, options.model, str(options.version), timeout=timeout, code_path=code)
    again.check()
    print(again)
