# ruff: noqa: T201  a command talks on standard output
"""Why a model was trained last, and why it is not trained now."""

from __future__ import annotations

import argparse

from airflow_mlops.commands.place import open_ledger, place_options


def add_why(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    why = commands.add_parser(
        "why",
        parents=[place_options()],
        help="why a model was trained last, and why it is not trained now: each trigger beside its bound; before "
        "the first training: what starts it",
    )
    why.add_argument("model", metavar="MODEL")
    why.set_defaults(run=_why)


def _why(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.retraining.why import why

    for line in why(open_ledger(options), options.model):
        print(line)
