# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops stack …``: a real Airflow, MLflow and model server for the DAGs of one folder, on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.commands.place import LAPTOP_HOME, LAPTOP_REPO
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.stack.stack import Stack


def add_stack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``stack`` and what is below it."""
    stack = commands.add_parser("stack", help="a real Airflow, MLflow and model server for the DAGs of this folder")
    below = stack.add_subparsers(required=True, metavar="COMMAND")
    home = home_option()
    up = below.add_parser("up", parents=[home, stack_options()], help="start what does not run")
    up.add_argument(
        "--until-served",
        nargs="*",
        metavar="MODEL",
        help="and go on until each pipeline of the DAG files serves: history, features, training, deployment; of these "
        "models only (default: all). Again: goes on",
    )
    up.set_defaults(run=_up)
    down = below.add_parser("down", parents=[home], help="stop it; its data stays")
    down.set_defaults(run=_down)
    status = below.add_parser("status", parents=[home], help="what runs, and where")
    status.set_defaults(run=_status)
    logs = below.add_parser("logs", parents=[home], help="how the log of a component ends, or of all")
    logs.add_argument("component", nargs="?", help="such as scheduler; see `airflow-mlops stack status`")
    logs.add_argument("--lines", type=int, default=30, help="how many of its last lines (default: 30)")
    logs.set_defaults(run=_logs)
    env = below.add_parser(
        "env", parents=[home], help='its settings for a shell: eval "$(airflow-mlops stack env)"; they hold its keys'
    )
    env.set_defaults(run=_env)
    airflow = below.add_parser(
        "airflow", parents=[home], help="Airflow's own command on the stack: stack airflow dags list"
    )
    airflow.add_argument("arguments", nargs=argparse.REMAINDER, help="as for `airflow`")
    airflow.set_defaults(run=_airflow)


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no folder: a stack keeps its databases on this machine")
    return Path(text)


def home_option() -> argparse.ArgumentParser:
    """Return the option for the folder of a stack, for ``parents=``."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--home",
        type=_folder,
        default=LAPTOP_HOME,
        help=f"folder for everything that is written (default: {LAPTOP_HOME})",
    )
    return options


def stack_options() -> argparse.ArgumentParser:
    """Return the options of what starts a stack, for ``parents=``."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--dags", type=Path, default=Path("dags"), help="folder with the DAG files (default: dags)")
    options.add_argument(
        "--feature-repo", type=Path, default=LAPTOP_REPO, help=f"Feast repository (default: {LAPTOP_REPO})"
    )
    options.add_argument("--airflow-port", type=int, help="default: $AIRFLOW_PORT or 8080")
    options.add_argument("--mlflow-port", type=int, help="default: $MLFLOW_PORT or 5000")
    options.add_argument("--serving-grpc-port", type=int, help="default: $SERVING_GRPC_PORT or 8500")
    options.add_argument("--serving-rest-port", type=int, help="default: $SERVING_REST_PORT or 8501")
    options.add_argument("--logs-port", type=int, help="default: $LOGS_PORT or 8793")
    return options


def stack_of(options: argparse.Namespace) -> Stack:
    """Return the stack that the options describe; ports that were not named are those on which it runs already."""
    from airflow_mlops.stack.ports import Ports, variable
    from airflow_mlops.stack.stack import Stack

    chosen = {variable(name): str(getattr(options, f"{name}_port")) for name in Ports().as_dict()}
    given = {name: port for name, port in chosen.items() if port != "None"}
    home = options.home.resolve()
    running = Stack.running(home)
    ports = Ports.from_environment({**os.environ, **given}, default=running.ports if running else Ports())
    return Stack(home, ports, dags=options.dags, feature_repo=options.feature_repo)


def _up(options: argparse.Namespace) -> None:
    stack = stack_of(options)
    stack.console.say("the stack is up" if stack.up() else "the stack runs already")
    if not stack.feature_repo.is_dir():
        print(f"There is no Feast repository in {stack.feature_repo}: the connection feast_default is left out.")
    _print_addresses(stack)
    if options.until_served is not None:
        from airflow_mlops.bootstrap.serve import until_served

        until_served(stack, options.until_served)


def _down(options: argparse.Namespace) -> None:
    stack = _started(options)
    stopped = stack.down() if stack else []
    print(f"stopped {', '.join(stopped)}" if stopped else "nothing ran")


def _status(options: argparse.Namespace) -> None:
    from airflow_mlops.stack.components import COMPONENTS

    stack = _started(options)
    records = stack.status() if stack else dict.fromkeys(COMPONENTS)
    for name, record in records.items():
        print(f"{name:15} {f'pid {record.pid}' if record else 'does not run'}")
    if stack and any(records.values()):
        _print_addresses(stack)
    else:
        print("Start it: airflow-mlops stack up")


def _logs(options: argparse.Namespace) -> None:
    from airflow_mlops.stack.components import COMPONENTS
    from airflow_mlops.stack.environment import Layout
    from airflow_mlops.stack.processes import tail

    if options.component not in (None, *COMPONENTS):
        raise ConfigError(
            f"The stack has no component {options.component!r}.{did_you_mean(options.component, COMPONENTS)}",
            hint=f"It has: {', '.join(COMPONENTS)}.",
        )
    layout = Layout(options.home.resolve())
    for name in [options.component] if options.component else COMPONENTS:
        log = layout.database / "log" if name == "postgres" else layout.log(name)
        print(f"{log}:\n{tail(log, options.lines)}\n")


def _env(options: argparse.Namespace) -> None:
    environment = _running(options).environment
    for name in sorted(environment):
        if environment[name] != os.environ.get(name):
            print(f"export {name}={shlex.quote(environment[name])}")


def _airflow(options: argparse.Namespace) -> None:
    # What its libraries say to those who develop with them is kept out, unless it is asked for.
    environment = {"PYTHONWARNINGS": "ignore", **_running(options).environment}
    done = subprocess.run([sys.executable, "-m", "airflow", *options.arguments], env=environment, check=False)
    raise SystemExit(done.returncode)


def _started(options: argparse.Namespace) -> Stack | None:
    """Return the stack that was started in a home folder, dead or alive."""
    from airflow_mlops.stack.stack import Stack

    return Stack.started(options.home.resolve())


def _running(options: argparse.Namespace) -> Stack:
    from airflow_mlops.stack.stack import Stack

    home = options.home.resolve()
    stack = Stack.running(home)
    if stack is None:
        raise ConfigError(
            "The stack does not run.", detail=f"home: {home}", hint="Start it: airflow-mlops stack up; or pass --home."
        )
    return stack


def _print_addresses(stack: Stack) -> None:
    print(f"Airflow  {stack.airflow_url}\nMLflow   {stack.mlflow_url}\nServing  {stack.serving_url}")
