# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops explain``, ``changes`` and ``schema``: what a pipeline does, what a change does, how to write one."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.commands.history import load_named, load_pipeline
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.pipeline import ModelPipeline

_PIPELINE = "DAG file and name, such as dags/churn.py:churn; or a YAML file"


def add_pipeline(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about a pipeline as it is written."""
    explained = commands.add_parser("explain", help="say in words what a pipeline does, when, and what holds it up")
    explained.add_argument("pipeline", metavar="PIPELINE", help=_PIPELINE)
    explained.set_defaults(run=_explain)
    changed = commands.add_parser("changes", help="say what is different in a pipeline, and what follows from it")
    changed.add_argument("pipeline", metavar="PIPELINE", help=_PIPELINE)
    before = changed.add_mutually_exclusive_group(required=True)
    before.add_argument("--since", metavar="REVISION", help="compare with the same file in git, such as HEAD~1 or main")
    before.add_argument("--from", dest="other", metavar="PIPELINE", help="compare with another pipeline")
    changed.set_defaults(run=_changes)
    schema = commands.add_parser(
        "schema", help="print the JSON schema by which an editor helps to write a pipeline in YAML"
    )
    schema.set_defaults(run=_schema)


def _explain(options: argparse.Namespace) -> None:
    from airflow_mlops.explain import explain, explain_fleet
    from airflow_mlops.fleet import Fleet

    found = load_named(options.pipeline)[1]
    print(explain_fleet(found) if isinstance(found, Fleet) else explain(found))


def _schema(_: argparse.Namespace) -> None:
    from airflow_mlops.pipeline_yaml import json_schema

    print(json.dumps(json_schema(), indent=2))


def _changes(options: argparse.Namespace) -> None:
    from airflow_mlops.changes import differences

    after = load_pipeline(options.pipeline)[1]
    before = load_pipeline(options.other)[1] if options.other else _then(options.pipeline, options.since)
    found = differences(before, after)
    for change in found:
        print(f"{change.argument}: {change.before!r} -> {change.after!r}\n    {change.follows}")
    if not found:
        print("Nothing is different.")


def _then(spec: str, revision: str) -> ModelPipeline:
    """Return the pipeline as the same file had it in a revision of git."""
    named, _, name = spec.rpartition(":") if not spec.endswith((".yaml", ".yml")) else (spec, "", "")
    file = Path(named).resolve()
    done = subprocess.run(
        ["git", "show", f"{revision}:./{file.name}"], cwd=file.parent, capture_output=True, check=False
    )
    if done.returncode:
        raise ConfigError(
            f"git has no {file.name} of {revision!r}.",
            detail=done.stderr.decode(errors="replace").strip(),
            hint="Name a commit, a tag or a branch in which the file is there; or compare with --from.",
        )
    with tempfile.TemporaryDirectory() as folder:
        sys.path.append(str(file.parent))  # for what it imports from beside it
        old = Path(folder) / f"{file.stem}_of_{abs(hash(revision))}{file.suffix}"
        # A DAG file may say where data lies by where it lies itself.
        source = f"__file__ = {str(file)!r}\nexec(compile({done.stdout!r}, __file__, 'exec'))\n".encode()
        old.write_bytes(source if name else done.stdout)
        return load_pipeline(f"{old}:{name}" if name else str(old))[1]
