"""The Models page: one row a model, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from airflow_mlops.contracts import Deployment, Halt
from airflow_mlops.engine.data.announcements import FACT as ANNOUNCEMENT
from airflow_mlops.engine.data.lateness import SNAPSHOT
from airflow_mlops.engine.data.partitions import FACT as PARTITION
from airflow_mlops.engine.evaluation.approvals import FACT as VERDICT
from airflow_mlops.engine.features.governance.consumers import KIND as FEATURES
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.engine.ledger.models import PointerRow
from airflow_mlops.engine.ledger.newest import last_keys, last_runs, newest, subjects
from airflow_mlops.engine.retraining.registered import FACT as REGISTERED
from airflow_mlops.engine.serving.deployments import FACT as DEPLOYMENT

POINTS = 12
"""Most values in a sparkline."""
_MOVES = 6


@dataclass(frozen=True)
class Serving:
    """What one server answers with. ``since`` is None where the moves before were too many to look at."""

    server: str
    version: int | None
    since: datetime | None
    why: str
    pin: str


@dataclass(frozen=True)
class Judged:
    """The last verdict on a model."""

    version: int
    status: str
    at: datetime
    reason: str


@dataclass(frozen=True)
class Source:
    """A dataset: its last partition, when that was sealed, and whether its upstream says that it is degraded."""

    dataset: str
    key: str
    sealed: datetime | None
    degraded: str


@dataclass(frozen=True)
class Training:
    """The training that was asked for last. ``state`` is that of its request, or ``running`` with ``left`` seconds."""

    why: str
    state: str
    at: datetime
    run: str


@dataclass(frozen=True)
class ModelRow:
    """One model, as the list shows it. ``cut``: up to when the serving version knows labels."""

    model: str
    serving: tuple[Serving, ...] = ()
    halt: str = ""
    cut: datetime | None = None
    verdict: Judged | None = None
    training: Training | None = None
    now: str = ""
    sources: tuple[Source, ...] = ()
    views: tuple[str, ...] = ()
    online: datetime | None = None
    metric: str = ""
    points: tuple[tuple[int, float], ...] = ()

    @property
    def state(self) -> str:
        """What matters most of it: ``halted``, ``degraded``, ``failing``, ``pinned``, ``serving`` or ``idle``."""
        if self.halt:
            return "halted"
        if any(one.degraded for one in self.sources):
            return "degraded"
        if self.verdict is not None and self.verdict.status != "PASS":
            return "failing"
        if any(one.pin for one in self.serving):
            return "pinned"
        return "serving" if any(one.version is not None for one in self.serving) else "idle"


def models(ledger: Ledger) -> list[str]:
    """Return the names of all models of which the ledger has a snapshot, a version, a verdict or a deployment."""
    found = {one for kind in (SNAPSHOT, REGISTERED, VERDICT, DEPLOYMENT) for one in subjects(ledger, kind)}
    return sorted(found)


def rows(ledger: Ledger, wanted: Sequence[str]) -> list[ModelRow]:
    """Return the row of each model, in the order in which they are named.

    :raises TransientError: when the ledger does not answer.
    """
    now = datetime.now(UTC)
    with ledger.reading():
        states = _deployments(ledger)
        moves = newest(ledger, DEPLOYMENT, wanted, _MOVES)
        halts = ledger.pointers("halt:")
        looks = ledger.pointers("retraining:")
        verdicts = newest(ledger, VERDICT, wanted)
        points = newest(ledger, REGISTERED, wanted, POINTS, only="metrics")
        reads = newest(ledger, FEATURES, wanted)
        cuts = _cuts(ledger, states, reads)
        trainings = _trainings(ledger, wanted)
        sources = _sources(ledger, {one for facts in reads.values() for one in facts[0].payload.get("datasets", ())})
        online = _online(ledger)
    made = []
    for model in wanted:
        read = reads[model][0].payload if model in reads else {}
        verdict = verdicts[model][0] if model in verdicts else None
        metric = key_metric(verdict.payload if verdict else {}, points.get(model, ()))
        look = looks.get(f"retraining:{model}")
        made.append(
            ModelRow(
                model=model,
                serving=tuple(_serving(state, moves.get(model, ()), now) for state in states.get(model, ())),
                halt=_halt(halts[f"halt:{model}"].value, now) if f"halt:{model}" in halts else "",
                cut=cuts.get(model),
                verdict=None if verdict is None else judged(verdict),
                training=trainings.get(model),
                now=str(look.value["why"]) if look is not None else "",
                sources=tuple(sources[one] for one in read.get("datasets", ()) if one in sources),
                views=_views(read),
                online=_oldest(online, read),
                metric=metric,
                points=values(points.get(model, ()), metric),
            )
        )
    return made


def key_metric(verdict: Mapping[str, Any], registered: Sequence[Fact]) -> str:
    """Return the metric that stands for a model: that of its first gate, or the first that a version has."""
    for each in (*verdict.get("gates", ()), *verdict.get("checks", ())):
        if each.get("metric"):
            return str(each["metric"])
    return next((name for fact in registered for name in fact.payload["metrics"]), "")


def values(registered: Iterable[Fact], metric: str) -> tuple[tuple[int, float], ...]:
    """Return (version, value) of the versions that have a metric, oldest first."""
    found = ((fact.key, fact.payload["metrics"].get(metric)) for fact in registered)
    return tuple(sorted((int(version), value) for version, value in found if value is not None))


def judged(fact: Fact) -> Judged:
    """Return a verdict, with the first of its reasons to refuse."""
    refused = [check for check in fact.payload.get("checks", ()) if not check["passed"]]
    reason = refused[0]["reason"] if refused else ""
    return Judged(fact.payload["version"], fact.payload.get("status", ""), fact.at, reason)


def _deployments(ledger: Ledger) -> dict[str, list[Deployment]]:
    found: dict[str, list[Deployment]] = {}
    for pointer in ledger.pointers("deployment:").values():
        state = Deployment.model_validate(pointer.value)
        found.setdefault(state.model, []).append(state)
    return found


def _serving(state: Deployment, moves: Sequence[Fact], now: datetime) -> Serving:
    """Return what a server answers with, and the move since which it does."""
    since, why = None, ""
    for move in moves:
        if move.payload["server"] != state.server:
            continue
        if move.payload["stable"] != state.stable:
            break
        since, why = move.at, f"{move.payload['action']}: {move.payload['why']}".rstrip(": ")
    pin = str(state.pin) if state.pin is not None and state.pin.holds(now) else ""
    return Serving(state.server, state.stable, since, why, pin)


def _halt(value: Mapping[str, Any], now: datetime) -> str:
    if not value:
        return ""
    made = Halt.model_validate(value)
    return str(made) if made.until is None or now < made.until else ""


def _cuts(
    ledger: Ledger, states: Mapping[str, list[Deployment]], reads: Mapping[str, list[Fact]]
) -> dict[str, datetime]:
    """Return model → up to when what serves knows labels; most often that is the version that was registered last."""
    serves = {model: one.stable for model, ones in states.items() for one in ones if one.stable is not None}
    found: dict[str, Any] = {}
    older = []
    for model, version in serves.items():
        if model in reads and reads[model][0].key == str(version):
            found[model] = reads[model][0].payload.get("label_cut")
        else:
            older.append((model, version))
    found |= {
        model: facts[0].payload.get("label_cut")
        for model, version in older
        if (facts := ledger.facts(FEATURES, model, key=str(version), limit=1))
    }
    return {model: datetime.fromisoformat(cut) for model, cut in found.items() if cut}


def _trainings(ledger: Ledger, wanted: Sequence[str]) -> dict[str, Training]:
    """Return model → its training that was asked for last and begun."""
    found = {}
    for row in last_runs(ledger, wanted):
        why = f"{row['reason']}: {row['detail']}" if row["detail"] else row["reason"]
        at = datetime.fromisoformat(row["started_at"] or row["changed_at"])
        found[row["model"]] = Training(why, row["state"], at, row["run"])
    return found


def _sources(ledger: Ledger, datasets: Iterable[str]) -> dict[str, Source]:
    wanted = sorted(datasets)
    keys = last_keys(ledger, PARTITION, wanted)
    sealed = newest(ledger, PARTITION, wanted)
    said = newest(ledger, ANNOUNCEMENT, wanted)
    return {
        name: Source(
            dataset=name,
            key=keys.get(name, ""),
            sealed=sealed[name][0].at if name in sealed else None,
            degraded=said[name][0].payload["reason"]
            if name in said and said[name][0].payload["state"] == "degraded"
            else "",
        )
        for name in wanted
    }


def _online(ledger: Ledger) -> dict[tuple[str, str], str | None]:
    """Return (project, feature view) → up to when it is online."""
    query = select(PointerRow.name, PointerRow.value["until"].as_string())
    query = query.where(PointerRow.name.startswith("feature_watermark:", autoescape=True))
    with ledger.transaction() as connection:
        rows = connection.execute(query).all()
    return {tuple(name.split(":", 2)[1:]): until for name, until in rows}


def _views(read: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted({name.partition(":")[0] for name in read.get("features", ()) if ":" in name}))


def _oldest(online: Mapping[tuple[str, str], str | None], read: Mapping[str, Any]) -> datetime | None:
    """Return up to when all feature views of a version are online."""
    known = [online.get((read.get("project", ""), view)) for view in _views(read)]
    moments = [datetime.fromisoformat(one) for one in known if one]
    return min(moments) if moments else None
