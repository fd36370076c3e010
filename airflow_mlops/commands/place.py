"""Where a command works: the home folder, the ledger, the store of partitions."""

from __future__ import annotations

import argparse
import getpass
import logging
import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger

LAPTOP_HOME = Path(".mlops")
LAPTOP_REPO = Path("feature_repo")


def a_day(text: str) -> date:
    """Return the day that an argument says, for ``type=``.

    :raises argparse.ArgumentTypeError: when it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day: write it as 2013-01-15") from None


def place_options() -> argparse.ArgumentParser:
    """Return the options that say where a command works, for ``parents=``."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--home",
        help=f"home folder, or s3://connection@bucket/prefix (default: option [mlops] home, else {LAPTOP_HOME})",
    )
    options.add_argument(
        "--ledger",
        metavar="URL",
        help="SQLAlchemy URL of the ledger (default: that of the laptop stack, if it runs; else of the Airflow "
        "connection mlops_ledger_default)",
    )
    return options


def repo_option() -> argparse.ArgumentParser:
    """Return the option that says where the features are defined, for ``parents=``."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--repo",
        type=Path,
        metavar="FOLDER",
        help=f"Feast repository (default: that of the Airflow connection feast_default, else ./{LAPTOP_REPO})",
    )
    return options


def who() -> str:
    """Return the name of the person at the keyboard, which goes into the ledger."""
    return getpass.getuser()


def open_home(options: argparse.Namespace) -> Path:
    """Return the home folder as this machine has it.

    :raises ConfigError: when it is on object storage, and nothing here can open that.
    """
    if options.home is not None and "://" not in str(options.home):
        return Path(options.home).resolve()
    try:
        from airflow_mlops.operators import base
    except ImportError:
        if options.home is None:
            return LAPTOP_HOME.resolve()
        raise ConfigError(
            "A home on object storage is opened by an Airflow connection, and Airflow is not installed here.",
            detail=f"--home {options.home}",
            hint="Install airflow-mlops[airflow,amazon].",
        ) from None
    try:
        home = options.home or base.default_home()
    except ConfigError:
        return LAPTOP_HOME.resolve()
    if "://" in home:
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")  # see _url_of_the_connection
    return base.open_home(home)


def open_ledger(options: argparse.Namespace, *, new: bool = False) -> Ledger:
    """Return the ledger.

    :param new: Whether this may be the first that is ever written to it: then a SQLite file is made.
    :raises ConfigError: when nothing says where it is, or it is a SQLite file that is not there.
    """
    from airflow_mlops.engine.ledger import Ledger

    # Airflow's logging goes to standard output, and the first command on a new ledger makes its tables.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    url = options.ledger or _url_of_the_laptop(open_home(options)) or _url_of_the_connection()
    ledger = Ledger(url)
    if not new:
        _check_there(url)
    return ledger


def _check_there(url: str) -> None:
    """Refuse a SQLite file that is not there: an empty ledger would say that nothing serves and nothing is halted."""
    from airflow_mlops.engine.ledger.database import parse

    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        raise ConfigError(
            "There is no ledger.",
            detail=parsed.database,
            hint="Correct --ledger, or the connection mlops_ledger_default. A new one is made by the first DAG run, by "
            "`airflow-mlops history` or `airflow-mlops features apply`.",
        )


def use_laptop_connections(home: Path) -> None:
    """Let Airflow's hooks find what the laptop stack below a home folder runs, if one does."""
    # As Airflow's own `airflow connections` does: without it, connections in Airflow's database are not looked for.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    if not (home / "postgres").is_dir():
        return
    from airflow_mlops.stack.stack import Stack

    running = Stack.running(home)
    for name, value in running.environment.items() if running else ():
        if name.startswith("AIRFLOW_CONN_"):
            os.environ.setdefault(name, value)


def open_store(options: argparse.Namespace, ledger: Ledger | None = None) -> PartitionStore:
    """Return the store of partitions."""
    home = open_home(options)
    try:
        from airflow_mlops.operators.base import partition_store
    except ImportError:
        from airflow_mlops.engine.data.partitions import PartitionStore

        return PartitionStore.under(home, ledger)
    return partition_store(home, ledger)


def open_location(options: argparse.Namespace) -> Location:
    """Return where the features are defined and kept.

    :raises ConfigError: when nothing says where.
    """
    from airflow_mlops.engine.features.project.location import Location

    home = open_home(options)
    if options.repo is not None:
        return Location(Path(options.repo).resolve(), home)
    found = _location_of_the_connection(home)
    if found is not None:
        return found
    if not LAPTOP_REPO.is_dir():
        raise ConfigError(
            "Where the feature repository is, nobody said.",
            detail=f"there is no Airflow connection feast_default, and no folder {LAPTOP_REPO} here",
            hint="Pass --repo FOLDER.",
        )
    return Location(LAPTOP_REPO.resolve(), home)


def _location_of_the_connection(home: Path) -> Location | None:
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")  # see _url_of_the_connection
    try:
        from airflow.sdk.exceptions import AirflowNotFoundException

        from airflow_mlops.hooks.feast import FeastHook
    except ImportError:
        return None
    hook = FeastHook()
    try:
        hook.get_connection(hook.conn_id)
    except AirflowNotFoundException:
        return None
    return hook.location(home)


def _url_of_the_laptop(home: Path) -> str | None:
    """Return the URL of the ledger of the stack that runs below a home folder, or None when none does."""
    if not (home / "postgres").is_dir():
        return None
    from airflow_mlops.stack import postgres
    from airflow_mlops.stack.environment import Layout

    database = postgres.find(Layout(home).database)
    return None if database is None else database.url("mlops_ledger")


def _url_of_the_connection() -> str:
    # As Airflow's own `airflow connections` does: without it, connections in Airflow's database are not looked for.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        from airflow_mlops.hooks.ledger import LedgerHook
    except ImportError:
        raise ConfigError(
            "Where the ledger is, nobody said.", detail="Airflow is not installed here", hint="Pass --ledger URL."
        ) from None
    try:
        return LedgerHook().url
    except ConfigError as error:
        raise ConfigError(error.headline, error.detail, f"Pass --ledger URL. Or: {error.hint}") from None
