# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops demo …``: the flight_delay example on a stack of its own."""

from __future__ import annotations

import argparse
from datetime import date, timedelta

from airflow_mlops.commands.stack import home_option, stack_of, stack_options
from airflow_mlops.exceptions import ConfigError


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` and what is below it."""
    demo = commands.add_parser("demo", help="the flight_delay example on a stack of its own")
    _add_commands(demo.add_subparsers(required=True, metavar="COMMAND"))


def _add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    home = home_option()
    run = commands.add_parser("run", parents=[home, stack_options()], help="from real flights to a served prediction")
    run.set_defaults(run=_run)
    land = commands.add_parser("land", parents=[home], help="land days of real flights, as the upstream would")
    land.add_argument("--day", type=date.fromisoformat, help="one day of 2013: YYYY-MM-DD")
    land.add_argument("--from", dest="first", type=date.fromisoformat, metavar="DAY", help="first of several days")
    land.add_argument("--to", dest="last", type=date.fromisoformat, metavar="DAY", help="last of several days")
    land.set_defaults(run=_land)


def _run(options: argparse.Namespace) -> None:
    from airflow_mlops.demo.run import run

    run(stack_of(options))


def _land(options: argparse.Namespace) -> None:
    from typing import get_args

    from airflow_mlops.demo.flights import Feed, land

    first, last = options.day or options.first, options.day or options.last or options.first
    if first is None or (options.day and (options.first or options.last)):
        raise ConfigError("Which days?", hint="Give either --day DAY, or --from DAY and --to DAY.")
    if last < first:
        raise ConfigError("The days end before they start.", detail=f"--from {first} --to {last}", hint="Swap them.")
    lake = options.home.resolve() / "lake"
    for offset in range((last - first).days + 1):
        for feed in get_args(Feed):
            landed = land(lake, first + timedelta(days=offset), feed)
            print(f"{landed['key']} {feed:10} {landed['rows']:5} rows  {landed['uri']}")
