"""What became of a training: its version, what it cost, how good it was; so that the same is not trained again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mlops.contracts import GateCheck, Record, Verdict
from airflow_mlops.engine.data.lateness import VERDICT
from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.engine.retraining.requests import requests

FACT, SAVED = "registered", "training_saved"
BACKFILL = "backfill"
"""What is special of a run of Airflow's own backfill: the moment of which knowledge it was trained on."""


class Registered(Record):
    """A version, and the training that it came from.

    :param spec_hash: Identity of the training: snapshot, code, parameters, seed, environment.
    :param run: Run of the train DAG that registered it.
    :param code: Hash of the code that trained it; empty where it was not written down.
    :param why: What asked for the training, in words.
    :param special: What was other than usual; empty where nothing was.
    :param rows: Rows of its snapshot.
    :param seconds: How long the training took.
    :param cost: What it cost, where a price is set.
    :param metrics: Metric → value on its test split.
    """

    model: str
    version: int
    spec_hash: str
    snapshot: str
    run: str
    code: str = ""
    why: str = ""
    special: dict[str, Any] = {}
    rows: int = 0
    seconds: float = 0.0
    cost: float | None = None
    metrics: dict[str, float | None] = {}


class Saved(Record):
    """What was not trained again, all of a model together."""

    trainings: int
    seconds: float
    cost: float


def record_registered(ledger: Ledger, made: Registered) -> None:
    """Write down once which training a version came from."""
    if registered(ledger, made.model, made.version) is None:
        ledger.record(FACT, made.model, as_json(made.model_dump()), key=str(made.version))


def registered(ledger: Ledger, model: str, version: int) -> Registered | None:
    """Return which training a version came from; None when it was not written down."""
    found = ledger.facts(FACT, model, key=str(version), limit=1)
    return Registered.model_validate(found[0].payload) if found else None


def backfilled(ledger: Ledger, model: str, version: int) -> str:
    """Return as of which moment Airflow's own backfill had a version trained; empty when it did not."""
    made = registered(ledger, model, version)
    return "" if made is None else str(made.special.get(BACKFILL, ""))


def version_of(ledger: Ledger, model: str, run: str) -> int | None:
    """Return the version that came of a run of the train DAG; None while none has."""
    made = (fact.payload for fact in ledger.facts(FACT, model))
    return next((int(one["version"]) for one in made if one["run"] == run), None)


def what_started(ledger: Ledger, model: str, run: str) -> tuple[str, dict[str, Any]]:
    """Return why a run of the train DAG trains, in words, and what of it is other than usual."""
    found = [one for one in requests(ledger, model, run=run) if one.state != "merged"]
    return (found[0].said or found[0].words, found[0].special) if found else ("", {})


def named_special(ledger: Ledger, version: int, verdict: Verdict) -> Verdict:
    """Return a verdict that says so of a version whose training was other than usual."""
    made = registered(ledger, verdict.model, version)
    if made is None or not made.special:
        return verdict
    special = GateCheck(
        gate="special training",
        passed=True,
        metric="",
        observed=None,
        bound=None,
        reason=f"trained other than usual: {words_of(made.special)}; {made.why}",
    )
    return verdict.model_copy(update={"checks": (*verdict.checks, special)})


def words_of(special: Mapping[str, Any]) -> str:
    """Return in words what was other than usual."""
    return ", ".join(f"{name}={value}" for name, value in special.items())


def trained_before(ledger: Ledger, model: str, spec_hash: str, run: str) -> Registered | None:
    """Return the judged version that the very same training gave in another run; None when there is none."""
    same = [fact.payload for fact in ledger.facts(FACT, model) if fact.payload["spec_hash"] == spec_hash]
    judged = {fact.payload["version"] for fact in ledger.facts(VERDICT, model, limit=None)} if same else set()
    found = [Registered.model_validate(one) for one in same if one["version"] in judged and one["run"] != run]
    return found[0] if found else None


def record_saved(ledger: Ledger, before: Registered, run: str) -> None:
    """Write down, once a run, what it did not cost to train the same again."""
    told: Mapping[str, Any] = {"version": before.version, "seconds": before.seconds, "cost": before.cost}
    if not ledger.facts(SAVED, before.model, key=run, limit=1):
        ledger.record(SAVED, before.model, told, key=run)


def saved(ledger: Ledger, model: str) -> Saved:
    """Return what was saved of a model so far."""
    payloads = [fact.payload for fact in ledger.facts(SAVED, model, limit=None)]
    return Saved(
        trainings=len(payloads),
        seconds=sum(one["seconds"] for one in payloads),
        cost=sum(one["cost"] or 0.0 for one in payloads),
    )
