"""A ledger with the story of a model in it: trained, judged, deployed, rolled back, halted; and of its data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import insert

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.profiles.collect import profile_table
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.engine.ledger.models import FactRow, TrainingRequestRow

SERVER = "tf_serving_default"
MARKUP = """<img src=x onerror=alert(1)> "it's" & 'so' </script>"""
DAYS = 60
_WHY = {"promote": "passed its gates", "rollback": "ann: answers 1 for every order"}
NOW = datetime.now(UTC).replace(microsecond=0)


def day(n: int) -> str:
    """Return the key of a day, so many before today."""
    return str((NOW - timedelta(days=n)).date())


class Story:
    """Writes facts as of days gone by.

    :param words: Stands wherever a person or a system can say something; empty: what one would say there.
    """

    def __init__(self, ledger: Ledger, model: str, words: str = "", dataset: str = "orders") -> None:
        self.ledger, self.model, self.words, self.dataset = ledger, model, words, dataset
        self.facts: list[dict[str, Any]] = []

    def said(self, words: str) -> str:
        return self.words or words

    def say(self, kind: str, subject: str, payload: dict[str, Any], ago: float, key: str = "") -> None:
        at = (NOW - timedelta(days=ago)).isoformat()
        self.facts.append({"kind": kind, "subject": subject, "key": key, "at": at, "payload": as_json(payload)})

    def data(self) -> None:
        """Sixty days: one is missing, one was blocked, one was replaced."""
        for n in range(DAYS, 0, -1):
            bad = n == 20
            outcome = {"expectation": "expect_column_values_to_not_be_null", "column": "price", "severity": "block"}
            outcome |= {"success": not bad, "note": self.said("12 % of the prices are missing"), "error": None}
            if n != 31:
                self.say("validation", self.dataset, {"outcomes": [outcome], "rows": 1000 + n}, n - 0.5, day(n))
            if not bad and n != 31:
                receipt = {"written_at": (NOW - timedelta(days=n - 0.4)).isoformat()}
                sealed = {"revision": f"{n:016x}", "rows": 1000 + n, "bytes": 1, "uri": "u", "receipt": receipt}
                self.say("partition", self.dataset, {**sealed, "replaces": None}, n - 0.6, day(n))
        self.say("late_arrival", self.dataset, {"old": "a", "new": "b", "diff": None}, 9, day(12))
        window = {"id": "e1", "dataset": self.dataset, "start": f"{day(45)}T00:00:00+00:00"}
        window |= {"end": f"{day(42)}T00:00:00+00:00", "reason": self.said("orders came twice"), "who": "otto"}
        self.say("exclusion", self.dataset, window, 30, "e1")
        for state, ago in (("degraded", 15), ("ok", 14)):
            self.say(
                "announcement",
                self.dataset,
                {"state": state, "reason": self.said("half of the shops are missing"), "who": "lake"},
                ago,
            )

    def version(self, number: int, ago: float, auc: float, status: str = "PASS") -> None:
        """One training, with its verdict."""
        model, snapshot, first = self.model, f"s{number}", int(ago) + 1
        held = {day(n): f"{n:016x}" for n in range(first, min(first + 30, DAYS))}
        made = {"partitions": {self.dataset: held}, "as_of": NOW - timedelta(days=ago), "exclusions": []}
        self.say("snapshot", model, {**made, "label_cut": NOW - timedelta(days=ago + 1)}, ago, snapshot)
        metrics = {"auc": auc, "log_loss": 1 - auc, "brier": 0.2 - auc / 10}
        told = {
            "model": model,
            "version": number,
            "spec_hash": f"h{number}",
            "snapshot": snapshot,
            "why": self.said("cron"),
        }
        told |= {"run": f"{model}.train manual__{number}", "special": {}, "rows": 30_000, "seconds": 95.0, "cost": 0.12}
        self.say("registered", model, {**told, "metrics": metrics}, ago, str(number))
        features = {"model": model, "version": number, "service": "s", "project": "p", "definition": "d", "code": {}}
        features |= {"features": ["per_day:price", "per_day:rate"], "snapshot": snapshot, "datasets": [self.dataset]}
        self.say("model_features", model, {**features, "label_cut": made["as_of"]}, ago, str(number))
        than = "at least" if status == "PASS" else "below"
        checks = [
            {"gate": "auc >= 0.68", "passed": status == "PASS", "metric": "auc", "observed": auc, "bound": 0.68,
             "slice": None, "n": None, "reason": self.said(f"{auc} is {than} 0.68")},
            {"gate": "log_loss <= 0.9", "passed": True, "metric": "log_loss", "observed": 0.4, "bound": 0.9,
             "slice": f"country={self.said('NO')[:9]}", "n": 512, "reason": "0.4 is at most 0.9"},
        ]  # fmt: skip
        verdict = {"model": model, "version": number, "status": status, "snapshot_id": snapshot, "checks": checks}
        gates = [{"metric": "auc", "min": 0.68}]
        verdict |= {"gates": gates, "champion_version": str(number - 1) if number > 1 else None, "content": "c"}
        self.say("verdict", model, verdict, ago - 0.01)

    def deployed(self, stable: int, ago: float, action: str = "promote", **more: Any) -> dict[str, Any]:
        state = {"server": SERVER, "model": self.model, "stable": stable, "loaded": [stable], **more}
        self.say("deployment", self.model, {"action": action, "why": self.said(_WHY.get(action, "")), **state}, ago)
        return state

    def told(self, state: dict[str, Any]) -> None:
        """Write all of it."""
        later = (NOW - timedelta(days=2)).isoformat()
        request = {
            "model": self.model,
            "key": "k",
            "reason": "cron",
            "detail": self.said("every night"),
            "priority": 60,
            "as_of": "",
        }
        request |= {
            "special": {},
            "asked_at": later,
            "asked_by": self.said(f"{self.model}.train"),
            "state": "done",
            "said": self.said(""),
        }
        request |= {"run": f"{self.model}.train manual__1", "changed_at": later, "started_at": later}
        online = {"until": f"{day(5)}T00:00:00+00:00", "ahead": [], "files": {}, "code": None, "store": None}
        pointers = {
            f"deployment:{SERVER}:{self.model}": state,
            "feature_watermark:p:per_day": online,
            f"retraining:{self.model}": {
                "why": self.said("18,000 of 50,000 new rows"),
                "since": later,
                "triggers": [],
                "until": None,
            },
        }
        with self.ledger.transaction(write=True) as connection:
            connection.execute(insert(FactRow), sorted(self.facts, key=lambda fact: fact["at"]))
            connection.execute(insert(TrainingRequestRow).values(**request))
        for name, value in pointers.items():
            self.ledger.swap(name, value, None)


def tell(ledger: Ledger, model: str, words: str = "", dataset: str = "orders") -> None:
    """Tell the story: six versions, the fourth failed, the fifth was rolled back, the sixth serves."""
    story = Story(ledger, model, words, dataset)
    story.data()
    for number, ago, auc, status in (
        (1, 40, 0.701, "PASS"), (2, 33, 0.712, "PASS"), (3, 26, 0.709, "PASS"),
        (4, 19, 0.655, "FAIL"), (5, 10, 0.72, "PASS"), (6, 3, 0.724, "PASS"),
    ):  # fmt: skip
        story.version(number, ago, auc, status)
    for number, ago in ((1, 39), (2, 32), (3, 25), (5, 9)):
        story.deployed(number, ago)
    story.deployed(3, 8, "rollback", rolled_back=[5])
    state = story.deployed(6, 2, good=[3, 2], rolled_back=[5])
    story.say(
        "halt", model, {"action": "halt", "who": "otto", "reason": story.said("labels are wrong"), "model": model}, 8
    )
    story.say("halt", model, {"action": "resume", "who": "otto", "reason": story.said("labels are repaired")}, 7)
    story.told(state)


def seal_rows(ledger: Ledger, home: Path, model: str, dataset: str = "orders") -> None:
    """Seal two days of a story's dataset with rows and profiles: yesterday, and the last that version 6 was trained on.

    Since then prices went up by a third, half of the countries are new, and one rate in ten is missing.
    """
    store = PartitionStore.under(home, ledger)
    rng = np.random.default_rng(7)
    revisions = {}
    for key, dearer, countries, missing in ((day(4), 1.0, [0.6, 0.3, 0.1], 0.0), (day(1), 1.33, [0.4, 0.1, 0.5], 0.1)):
        rows = 2000
        begin = datetime.fromisoformat(f"{key}T00:00:00+00:00")
        table = pa.table(
            {
                "at": [begin + timedelta(seconds=float(n)) for n in rng.uniform(0, 86_400, rows)],
                "price": rng.lognormal(3.0, 0.4, rows) * dearer,
                "pieces": rng.poisson(3, rows),
                "country": rng.choice(["NO", "SE", "DK"], rows, p=countries),
                "rate": pa.array(rng.normal(0.5, 0.1, rows), mask=rng.uniform(size=rows) < missing),
                "buyer": [f"Anna of the {n}th" for n in range(rows)],
            }
        )
        folder = home / "landed" / dataset / key
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "rows.parquet", write_page_checksum=True)
        hashed = batch_hash(parquet_files(folder))
        made = store.seal(dataset, key, folder, event_time="at", batch_hash=hashed, suite_hash="s")
        about = {"dataset": dataset, "key": key, "revision": made.revision}
        store.write_profile(dataset, key, made.revision, profile_table(table, slices=["country"], **about))
        revisions[key] = made.revision
        computed = feature_file(home, "per_day", key)
        computed.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.select(["at", "price", "rate"]), computed)
    seen = ledger.facts("snapshot", model, key="s6", limit=1)[0].payload
    held = {**seen["partitions"][dataset], day(4): revisions[day(4)]}
    read = ledger.facts("model_features", model, key="6", limit=1)[0].payload
    ledger.record("model_features", model, {**read, "pinned": {"per_day": [day(33), day(4), 30]}}, key="6")
    ledger.record("snapshot", model, {**seen, "partitions": {dataset: held}}, key="s6")
