# ruff: noqa: T201  a command talks on standard output
"""The red button: halt a model, let it go on, and what is halted."""

from __future__ import annotations

import argparse

from airflow_mlops.commands.place import open_ledger, place_options, who
from airflow_mlops.exceptions import DataError, did_you_mean
from airflow_mlops.moments import parse_day_or_moment


def add_halts(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about halts."""
    place = place_options()
    said = argparse.ArgumentParser(add_help=False)
    said.add_argument("model", metavar="MODEL")
    said.add_argument("--reason", required=True, help="why, in words; kept in the ledger with your name")

    halt = commands.add_parser(
        "halt", parents=[place, said], help="stop a model: nothing trains, registers or deploys; what serves stays"
    )
    halt.add_argument("--until", metavar="ISO", help="when it runs out (default: when somebody resumes)")
    halt.add_argument("--untrained", action="store_true", help="the model never trained yet: its name is not checked")
    halt.set_defaults(run=_halt)

    resume = commands.add_parser("resume", parents=[place, said], help="end the halt of a model")
    resume.set_defaults(run=_resume)

    listing = commands.add_parser("halts", parents=[place], help="list the models that are halted")
    listing.set_defaults(run=_halts)


def _halt(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.halts import halt, require_trained

    ledger = open_ledger(options)
    if not options.untrained:
        require_trained(ledger, options.model, "--untrained")
    until = parse_day_or_moment(options.until, "--until") if options.until else None
    print(
        f"{halt(ledger, options.model, who(), options.reason, until)}. What serves stays; a rollback is still possible."
    )


def _resume(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.halts import halts, resume

    ledger = open_ledger(options)
    if resume(ledger, options.model, who(), options.reason) is None:
        halted = [made.model for made in halts(ledger)]
        raise DataError(
            f"{options.model} is not halted.{did_you_mean(options.model, halted)}",
            detail=f"halted: {', '.join(halted) or 'none'}",
            hint="Nothing was changed.",
        )
    print(f"{options.model} goes on: what waited by itself; of what was skipped, clear the tasks.")


def _halts(options: argparse.Namespace) -> None:
    from airflow_mlops.engine.halts import halts

    found = halts(open_ledger(options))
    for made in found:
        print(f"{made}  (since {made.at:%Y-%m-%d %H:%M} UTC)")
    if not found:
        print("No model is halted.")
