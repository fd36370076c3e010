"""Where a command works: the home folder, the ledger, the store of partitions."""

from __future__ import annotations

import argparse
import getpass
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger

LAPTOP_HOME = Path(".mlops")


def place_options() -> argparse.ArgumentParser:
    """Return the options that say where a command works, for ``parents=``."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--home", type=Path, help=f"folder with the partitions (default: option [mlops] home, else {LAPTOP_HOME})"
    )
    options.add_argument(
        "--ledger",
        metavar="URL",
        help="SQLAlchemy URL of the ledger (default: that of the laptop stack, if it runs; else of the Airflow "
        "connection mlops_ledger_default)",
    )
    return options


def who() -> str:
    """Return the name of the person at the keyboard, which goes into the ledger."""
    return getpass.getuser()


def open_home(options: argparse.Namespace) -> Path:
    """Return the home folder."""
    if options.home is not None:
        return Path(options.home).resolve()
    try:
        from airflow_mlops.operators.base import default_home

        return Path(default_home())
    except (ImportError, ConfigError):
        return LAPTOP_HOME.resolve()


def open_ledger(options: argparse.Namespace) -> Ledger:
    """Return the ledger.

    :raises ConfigError: when nothing says where it is.
    """
    from airflow_mlops.engine.ledger import Ledger

    # Airflow's logging goes to standard output, and the first command on a new ledger makes its tables.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return Ledger(options.ledger or _url_of_the_laptop(open_home(options)) or _url_of_the_connection())


def open_store(options: argparse.Namespace, ledger: Ledger | None = None) -> PartitionStore:
    """Return the store of partitions."""
    home = open_home(options)
    try:
        from airflow_mlops.operators.base import partition_store
    except ImportError:
        from airflow_mlops.engine.data.partitions import PartitionStore

        return PartitionStore.under(home, ledger)
    return partition_store(home, ledger)


def _url_of_the_laptop(home: Path) -> str | None:
    """Return the URL of the ledger of the stack that runs below a home folder, or None when none does."""
    if not (home / "postgres").is_dir():
        return None
    from airflow_mlops.demo import postgres
    from airflow_mlops.demo.environment import Layout

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
