# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops history``: load months and years of a pipeline's landed data in one go."""

from __future__ import annotations

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.commands.place import (
    a_day,
    open_home,
    open_ledger,
    open_location,
    open_store,
    place_options,
    repo_option,
    use_laptop_connections,
)
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from airflow_mlops.engine.history.load import Loaded
    from airflow_mlops.fleet import Fleet
    from airflow_mlops.pipeline import ModelPipeline

_EVERY = 1.0


def add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    history = commands.add_parser(
        "history",
        parents=[place_options(), repo_option()],
        help="seal months and years of landed data, and compute their features; again: goes on; exits with 1 when "
        "partitions were refused",
    )
    add_span(history, to="the last that has landed")
    add_workers(history)
    history.add_argument(
        "--again",
        action="store_true",
        help="seal again what is sealed: where other bytes have landed, or after a change of a feed's contract; "
        "without it other bytes are refused",
    )
    history.set_defaults(run=_history)


def add_span(command: argparse.ArgumentParser, to: str = "") -> None:
    """Add the arguments of what works on a span of a pipeline's partitions.

    :param to: What the last day is by default, in words; it must be given without.
    """
    command.add_argument("pipeline", metavar="PIPELINE", help="DAG file and name, such as dags/churn.py:churn")
    command.add_argument("--from", dest="first", type=a_day, metavar="DAY", help="default: its first day")
    command.add_argument(
        "--to",
        dest="last",
        type=a_day,
        metavar="DAY",
        required=not to,
        help=f"default: {to}" if to else "last day",
    )


def add_workers(command: argparse.ArgumentParser) -> None:
    """Add the option that says how many processes work."""
    command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")


def _history(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.history.landed import load_landed
    from airflow_mlops.engine.history.load import load_history
    from airflow_mlops.hooks.databases import database
    from airflow_mlops.operators.base import beneath

    def landed(pipeline: ModelPipeline, first: date, _: date, **how: Any) -> Loaded:
        return load_landed(pipeline, first, **how).loaded

    locate = partial(beneath, open_home(options))
    load = load_history if options.last else landed
    in_bulk(options, partial(load, locate=locate, databases=database, again=options.again))


def in_bulk(options: argparse.Namespace, load: Callable[..., Loaded]) -> ModelPipeline:
    """Load a span of a pipeline's partitions, and say what was done.

    :raises DataError: listing what was refused.
    """
    from airflow_mlops.engine.history.landed import check_refused

    folder, pipeline = load_pipeline(options.pipeline)
    home, ledger = open_home(options), open_ledger(options, new=True)
    use_laptop_connections(home)
    os.environ.setdefault("MLOPS_HOME", str(home))
    began = told = time.monotonic()

    def say(text: str) -> None:
        nonlocal told
        if time.monotonic() - told > _EVERY:
            told = time.monotonic()
            print(text, file=sys.stderr)

    loaded = load(
        pipeline,
        options.first or pipeline.source.start,
        options.last or datetime.now(UTC).date(),
        location=open_location(options),
        store=open_store(options, ledger),
        ledger=ledger,
        code_path=str(folder),
        workers=options.workers,
        say=say,
    )
    print(f"{loaded}; {time.monotonic() - began:.0f} s")
    check_refused(loaded.refused)
    return pipeline


def load_pipeline(spec: str) -> tuple[Path, ModelPipeline]:
    """Return the folder of a DAG file and the pipeline that ``dags/file.py:name`` or ``dags/file.yaml`` means; of a
    fleet, ``dags/file.py:name.member``.

    :raises ConfigError: when there is no such file or name, or it is no pipeline.
    """
    from airflow_mlops.fleet import Fleet

    folder, found = load_named(spec)
    if isinstance(found, Fleet):
        raise ConfigError(
            f"{spec!r} is a fleet, and which of its members is meant is not said.",
            detail=f"members: {', '.join(found.members)}",
            hint=f"Write {spec}.{next(iter(found.members))}.",
        )
    return folder, found


def load_named(spec: str) -> tuple[Path, ModelPipeline | Fleet]:
    """Return what :func:`load_pipeline` does; or a fleet, ``dags/file.py:name``.

    :raises ConfigError: when there is no such file or name, or it is neither.
    """
    from airflow_mlops.engine.entrypoints import load_object
    from airflow_mlops.fleet import Fleet
    from airflow_mlops.pipeline import ModelPipeline

    file, _, name = spec.rpartition(":")
    yaml = next((one for one in (spec, file) if one.endswith((".yaml", ".yml"))), "")
    if yaml:
        return Path(yaml).resolve().parent, ModelPipeline.from_yaml(yaml, name if yaml == file else "")
    path = Path(file).resolve()
    if not path.is_file() or not name:
        raise ConfigError(
            f"{spec!r} does not name a pipeline.",
            detail=f"there is no file {path}" if name else "no name after ':'",
            hint="Write the DAG file and the variable: dags/flight_delay.py:flight_delay; or a YAML file.",
        )
    name, _, member = name.partition(".")
    found = load_object(f"{path.stem}:{name}", str(path.parent))
    if isinstance(found, Fleet):
        return path.parent, found.pipeline(member) if member else found
    if not isinstance(found, ModelPipeline):
        raise ConfigError(
            f"{spec!r} is no ModelPipeline.",
            detail=f"it is a {type(found).__name__}",
            hint="Name the variable to which ModelPipeline(...) is assigned.",
        )
    return path.parent, found
