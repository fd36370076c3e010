# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops demo …``: the flight_delay example on a laptop stack."""

from __future__ import annotations

import argparse
import os
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.demo.stack import Stack


def add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` and what is below it."""
    demo = commands.add_parser("demo", help="the flight_delay example on a laptop stack")
    _add_commands(demo.add_subparsers(required=True, metavar="COMMAND"))


def _add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--home", type=Path, default=Path(".mlops"), help="folder for everything that is written (default: .mlops)"
    )
    repository = argparse.ArgumentParser(add_help=False, parents=[place])
    repository.add_argument("--dags", type=Path, default=Path("dags"), help="folder with the DAG files")
    repository.add_argument("--feature-repo", type=Path, default=Path("feature_repo"), help="Feast repository")
    repository.add_argument("--airflow-port", type=int, help="default: $AIRFLOW_PORT or 8080")
    repository.add_argument("--mlflow-port", type=int, help="default: $MLFLOW_PORT or 5000")
    repository.add_argument("--serving-grpc-port", type=int, help="default: $SERVING_GRPC_PORT or 8500")
    repository.add_argument("--serving-rest-port", type=int, help="default: $SERVING_REST_PORT or 8501")
    repository.add_argument("--logs-port", type=int, help="default: $LOGS_PORT or 8793")

    run = commands.add_parser("run", parents=[repository], help="from real flights to a served prediction")
    run.set_defaults(run=_run)
    up = commands.add_parser("up", parents=[repository], help="start the stack")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", parents=[repository], help="stop the stack")
    down.set_defaults(run=_down)
    status = commands.add_parser("status", parents=[repository], help="say what runs, and where")
    status.set_defaults(run=_status)
    land = commands.add_parser("land", parents=[place], help="land days of real flights, as the upstream would")
    land.add_argument("--day", type=date.fromisoformat, help="one day of 2013: YYYY-MM-DD")
    land.add_argument("--from", dest="first", type=date.fromisoformat, metavar="DAY", help="first of several days")
    land.add_argument("--to", dest="last", type=date.fromisoformat, metavar="DAY", help="last of several days")
    land.set_defaults(run=_land)


def _stack(options: argparse.Namespace) -> Stack:
    from airflow_mlops.demo.ports import Ports, variable
    from airflow_mlops.demo.stack import Stack

    chosen = {variable(name): str(getattr(options, f"{name}_port")) for name in Ports().as_dict()}
    given = {name: port for name, port in chosen.items() if port != "None"}
    home = options.home.resolve()
    ports = Ports.from_environment({**os.environ, **given}, default=Stack.running_ports(home) or Ports())
    return Stack(home, ports, dags=options.dags, feature_repo=options.feature_repo)


def _run(options: argparse.Namespace) -> None:
    from airflow_mlops.demo.run import run

    run(_stack(options))


def _up(options: argparse.Namespace) -> None:
    stack = _stack(options)
    if stack.up():
        stack.console.say("the stack is up")
    else:
        stack.console.say("the stack runs already")
    _print_addresses(stack)


def _down(options: argparse.Namespace) -> None:
    stack = _stack(options)
    stopped = stack.down()
    stack.console.say(f"stopped {', '.join(stopped)}" if stopped else "nothing ran")


def _status(options: argparse.Namespace) -> None:
    stack = _stack(options)
    for name, record in stack.status().items():
        print(f"{name:15} {f'pid {record.pid}' if record else 'does not run'}")
    _print_addresses(stack)


def _print_addresses(stack: Stack) -> None:
    print(f"Airflow  {stack.airflow_url}\nMLflow   {stack.mlflow_url}\nServing  {stack.serving_url}")


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
