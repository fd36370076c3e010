# ruff: noqa: T201  a command talks on standard output
"""``airflow-mlops doctor``: what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError, MlopsError

if TYPE_CHECKING:
    from airflow_mlops.doctor import Finding, Installation


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``doctor``."""
    doctor = commands.add_parser(
        "doctor", help="what is wrong with this installation, and how to mend it; exits with 1 when something is"
    )
    doctor.add_argument("--home", default="", help="home folder, or its URL (default: option [mlops] home)")
    doctor.add_argument(
        "--airflow-url", default="", help="Airflow's API server (default: as Airflow is configured here)"
    )
    doctor.add_argument("--user", help="user to log in as (default: as Airflow is configured here)")
    doctor.add_argument("--password-file", type=Path, help="file with the password of --user")
    doctor.add_argument(
        "--compose", type=Path, metavar="FOLDER", help="before it is started: the folder with compose.yaml and .env"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    from airflow_mlops.compose import before_the_start
    from airflow_mlops.doctor import OK, WRONG

    found = before_the_start(options.compose) if options.compose else _examine(options)
    wrong = 0
    logging.disable(logging.ERROR)  # what libraries say of what they cannot reach, the findings say shorter
    try:
        for name, finding in found:
            wrong += finding.state == WRONG
            print(f"{finding.state:18} {name}: {finding.words}")
            if finding.hint and finding.state != OK:
                print(f"{'':18} fix: {finding.hint}")
    finally:
        logging.disable(logging.NOTSET)
    if wrong:
        raise MlopsError(
            f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong with this installation.",
            detail="the lines above that begin with `wrong`",
            hint="Mend them from the top, then ask again: what comes later may stand on what comes first.",
        )
    print("Nothing is wrong.")


def _examine(options: argparse.Namespace) -> Iterator[tuple[str, Finding]]:
    from airflow_mlops.doctor import examine

    return examine(_place(options))


def _place(options: argparse.Namespace) -> Installation:
    from airflow_mlops.commands.place import LAPTOP_HOME, use_laptop_connections
    from airflow_mlops.doctor import Installation
    from airflow_mlops.stack.stack import Stack

    if (options.user is None) != (options.password_file is None):
        raise ConfigError(
            "--user and --password-file belong together.", detail="one of them is missing", hint="Give both, or none."
        )
    login = (options.user, options.password_file.read_text().strip()) if options.user else None
    said = options.home or os.environ.get("AIRFLOW__MLOPS__HOME", "")
    laptop = Path(said or LAPTOP_HOME).resolve()
    if "://" not in said and (stack := Stack.running(laptop)):
        use_laptop_connections(laptop)
        return Installation(str(laptop), options.airflow_url or stack.airflow_url, login)
    return Installation(options.home, options.airflow_url, login)
