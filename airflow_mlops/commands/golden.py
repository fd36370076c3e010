# ruff: noqa: T201  a command talks on standard output
"""Golden cases: requests that every later version of a model must answer rightly."""

from __future__ import annotations

import argparse
from pathlib import Path

from airflow_mlops.commands.place import open_home, open_ledger, place_options, who


def add_golden(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about golden cases."""
    place = place_options()
    golden = commands.add_parser("golden", help="requests that every later version of a model must answer rightly")
    actions = golden.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser(
        "add", parents=[place], help="add a case, such as a prediction that once went wrong, from a JSON file"
    )
    add.add_argument("model", metavar="MODEL")
    add.add_argument(
        "file", type=Path, metavar="FILE", help="inputs, outputs and tolerance; see docs/registry/elsewhere.md"
    )
    add.add_argument("--tolerance", type=float, help="largest absolute difference (default: of the file, else 0.05)")
    add.add_argument("--reason", required=True, help="why, in words; kept in the ledger with your name")
    add.set_defaults(run=_add)

    listing = actions.add_parser("list", parents=[place], help="list the cases of a model")
    listing.add_argument("model", metavar="MODEL")
    listing.set_defaults(run=_list)

    remove = actions.add_parser("remove", parents=[place], help="take a case away")
    remove.add_argument("model", metavar="MODEL")
    remove.add_argument("id", metavar="ID")
    remove.add_argument("--reason", required=True, help="why, in words; kept in the ledger with your name")
    remove.set_defaults(run=_remove)


def _add(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.golden_cases import add_case, read_case

    case = read_case(options.file, who(), options.reason, options.tolerance)
    add_case(open_ledger(options), options.model, case, open_home(options))
    print(f"Golden case {case.id} of {options.model}: every version that is published from now on is asked.")


def _list(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.golden_cases import cases

    found = cases(open_ledger(options), options.model)
    for case in found:
        print(f"{case.id}  {case.outputs} ± {case.tolerance:g}  {case.who}: {case.reason}")
    if not found:
        print(f"{options.model} has no golden cases.")


def _remove(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.serving.golden_cases import remove_case

    remove_case(open_ledger(options), options.model, options.id, who(), options.reason)
    print(f"Golden case {options.id} of {options.model} is taken away.")
