"""The flights that several benches measure on: landed, sealed, with their features; made once for each span of days."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
REPO, DAGS = ROOT / "feature_repo", ROOT / "dags"
SERVICE = "flight_delay_v1"
HOMES = ROOT / ".mlops" / "bench"


def made(first: date, last: date, homes: Path) -> Path:
    """Return a home with the flights of some days, made now unless the example's present code made it before.

    :param homes: Where such homes are kept, one for each span of days.
    """
    from airflow_mlops.demo.history import History

    home = homes / f"flights-{first}-{last}"
    home.mkdir(parents=True, exist_ok=True)
    history = History(home, DAGS, REPO, ledger_url(home), first, last)
    if not history.done:
        print(f"landing the flights of {first} to {last}, and computing their features", flush=True)
        subprocess.run(history.command, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return home


def ledger_url(home: Path) -> str:
    """Return the URL of the ledger of such a home."""
    return f"sqlite:///{home}/ledger.db"
