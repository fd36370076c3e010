"""The months before, in bulk: the engine's own functions, partition by partition, without a scheduler.

Run as a program of its own, because it works on all cores while the stack starts:
``python -m airflow_mlops.demo.history <home> <dags> <feature repo> <ledger url> <first day> <last day>``.
Lines of its output that start with ``history: `` say how far it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import ConfigError, MlopsError
from airflow_mlops.partitioning import DAILY

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.pipeline import ModelPipeline

PIPELINE = "flight_delay:flight_delay"
PROGRESS = "history: "
STORM = date(2013, 2, 9)
"""69 % of the flights were cancelled: unusual, and real."""


@dataclass(frozen=True)
class History:
    """What to land, and with which code.

    :param first: First day.
    :param last: Last day.
    """

    home: Path
    dags: Path
    feature_repo: Path
    ledger_url: str
    first: date
    last: date

    @property
    def days(self) -> list[str]:
        """Partition keys, in order."""
        return list(DAILY.keys(*DAILY.span(self.first, self.last)))

    @property
    def code_hash(self) -> str:
        """Identity of the example's code: when it changes, what it made is made again."""
        files = [*sorted(self.dags.rglob("*.py")), *sorted(self.feature_repo.glob("*.py"))]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    @property
    def done(self) -> bool:
        """Whether all of it is there, made by this code."""
        wanted = json.dumps(self._receipt())
        return self._receipt_file.exists() and self._receipt_file.read_text() == wanted

    def mark_done(self) -> None:
        """Write down that all of it is there."""
        self._receipt_file.parent.mkdir(parents=True, exist_ok=True)
        self._receipt_file.write_text(json.dumps(self._receipt()))

    @property
    def command(self) -> list[str]:
        """The program that lands it."""
        values = (str(value) for value in asdict(self).values())
        return [sys.executable, "-m", "airflow_mlops.demo.history", *values]

    @property
    def _receipt_file(self) -> Path:
        return self.home / "run" / "history.json"

    def _receipt(self) -> dict[str, str]:
        return {"first": str(self.first), "last": str(self.last), "code": self.code_hash}


def land_history(history: History, say: Callable[[str], None]) -> None:
    """Land every day, and load them as ``airflow-mlops history`` does.

    :param say: Told how far it is.
    :raises MlopsError: whatever the engine refuses.
    """
    from airflow_mlops.demo.flights import Feed, land
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.history.load import load_history
    from airflow_mlops.engine.ledger import Ledger

    for n, key in enumerate(history.days, 1):
        for feed in get_args(Feed):
            land(history.home / "lake", date.fromisoformat(key), feed)
        say(f"landed {n} of {len(history.days)} days")
    ledger = Ledger(history.ledger_url)
    pipeline: ModelPipeline = load_object(PIPELINE, str(history.dags))
    load = partial(
        load_history,
        pipeline,
        history.first,
        history.last,
        location=Location(history.feature_repo, history.home),
        store=PartitionStore.under(history.home, ledger),
        ledger=ledger,
        code_path=str(history.dags),
        locate=history.home.joinpath,
        workers=os.cpu_count() or 1,
        say=say,
    )
    refused = load().refused
    for _ in range(2):  # first the feeds are accepted, then what is computed of them
        if refused and _accept_storm(ledger, pipeline):
            refused = load().refused
    if refused:
        raise MlopsError("Days of the history were refused.", detail="\n".join(map(str, refused)))
    history.mark_done()


def _accept_storm(ledger: Ledger, pipeline: ModelPipeline) -> bool:
    """Say of the day of the snow what a person would: it is real. Returns whether there was anything to accept."""
    from airflow_mlops.demo.flights import days_later
    from airflow_mlops.engine.data.checks import accept

    accepted = []
    for name in [*(feed.dataset for feed in pipeline.feeds), *(f"features.{v}" for v in pipeline.features.view_suites)]:
        with suppress(ConfigError):  # it was not refused
            accepted.append(accept(ledger, name, str(STORM + days_later()), "the snow of 8 and 9 February", "demo"))
    return bool(accepted)


def main(arguments: Sequence[str]) -> int:
    """Run it; the error, if any, is the last thing on standard output."""
    home, dags, feature_repo, ledger_url, first, last = arguments
    history = History(
        Path(home), Path(dags), Path(feature_repo), ledger_url, date.fromisoformat(first), date.fromisoformat(last)
    )
    try:
        # One at a time: of a demo that was killed, this program may still be at work.
        with locked(history.home / "run" / "history.lock"):
            if not history.done:
                land_history(history, lambda text: print(f"{PROGRESS}{text}", flush=True))
    except MlopsError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
