"""The versions of a model: what became of each, what each was judged by, and any two side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, func, select

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.data.lateness import SNAPSHOT, TAINT
from airflow_mlops.engine.evaluation.approvals import FACT as VERDICT
from airflow_mlops.engine.features.governance.consumers import KIND as FEATURES
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.engine.ledger.models import FactRow
from airflow_mlops.engine.overview.models import judged
from airflow_mlops.engine.registry.deleting import FACT as DELETED
from airflow_mlops.engine.retraining.registered import FACT as REGISTERED
from airflow_mlops.engine.serving.deployments import deployments
from airflow_mlops.exceptions import DataError, did_you_mean
from airflow_mlops.problems import less_is_better

PAGE = 50
"""Versions on one page of the list."""
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Version:
    """A version in the list. ``status`` is that of its last verdict, ``""`` where nobody judged it."""

    number: int
    at: datetime
    status: str = ""
    reason: str = ""
    states: tuple[str, ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    why: str = ""
    run: str = ""
    rows: int = 0
    seconds: float = 0.0
    cost: float | None = None


@dataclass(frozen=True)
class Held:
    """Which partitions of a dataset a version was trained on."""

    dataset: str
    partitions: Mapping[str, str]

    @property
    def words(self) -> str:
        """First, last and how many."""
        keys = sorted(self.partitions)
        return f"{keys[0]} to {keys[-1]}, {len(keys):,} partitions" if len(keys) > 1 else "".join(keys) or "none"


@dataclass(frozen=True)
class Detail:
    """All that the ledger has of a version.

    Of the ``datasets`` that it was trained on, the partitions are ``held`` where its snapshot is recorded.
    """

    version: Version
    verdict: Mapping[str, Any]
    judged: tuple[tuple[datetime, str], ...]
    snapshot: str
    code: str
    as_of: str
    cut: datetime | None
    service: str
    features: tuple[str, ...]
    special: Mapping[str, Any]
    datasets: tuple[str, ...]
    held: tuple[Held, ...]
    exclusions: tuple[Mapping[str, Any], ...]
    tainted: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """One line of two versions side by side. ``better`` is 1 or 2, or 0 where neither is."""

    name: str
    one: Any
    two: Any
    better: int = 0


@dataclass(frozen=True)
class Compared:
    """Two versions side by side: metrics, checks by slice, and what is different in what they were made of."""

    one: Detail
    two: Detail
    metrics: tuple[Beside, ...]
    checks: tuple[Beside, ...]
    changed: tuple[Beside, ...]


def versions(ledger: Ledger, model: str, page: int = 1) -> list[Version]:
    """Return one page of the versions of a model, the newest first.

    :param page: From 1 on.
    :raises TransientError: when the ledger does not answer.
    """
    with ledger.reading():
        made = _registered(ledger, model, page)
        if not made and page > 1:
            return []
        numbers = [int(fact.key) for fact in made]
        # An own DAG may have judged versions that nobody registered with this ledger: they are in between, or beyond.
        low = min(numbers) if len(made) == PAGE else None
        verdicts = _verdicts(ledger, model, low, max(numbers) if page > 1 else None)
        states = _states(ledger, model)
    last: dict[int, Fact] = {}
    for fact in verdicts:
        last.setdefault(fact.payload["version"], fact)
    found = {number: _version(None, fact, states) for number, fact in last.items()}
    found |= {int(fact.key): _version(fact, last.get(int(fact.key)), states) for fact in made}
    return sorted(found.values(), key=lambda one: -one.number)


def count(ledger: Ledger, model: str) -> int:
    """Return how many versions were registered."""
    query = select(func.count()).where(FactRow.kind == REGISTERED, FactRow.subject == model)
    with ledger.transaction() as connection:
        return int(connection.execute(query).scalar_one())


def detail(ledger: Ledger, model: str, number: int) -> Detail:
    """Return all that the ledger has of a version.

    :raises DataError: when it has nothing, with the nearest number there is.
    :raises TransientError: when the ledger does not answer.
    """
    with ledger.reading():
        registered = ledger.facts(REGISTERED, model, key=str(number), limit=1)
        verdicts = _verdicts(ledger, model, number, number)
        if not registered and not verdicts:
            known = [str(one.number) for one in versions(ledger, model)]
            raise DataError(
                f"There is no version {number} of {model!r}.{did_you_mean(str(number), known)}",
                detail=f"the latest: {', '.join(known[:10]) or 'none'}",
                hint="The list of versions has those that there are.",
            )
        made = registered[0].payload if registered else {}
        verdict = verdicts[0].payload if verdicts else {}
        snapshot = made.get("snapshot") or verdict.get("snapshot_id", "")
        facts = ledger.facts(SNAPSHOT, model, key=snapshot, limit=1) if snapshot else []
        told = facts[0].payload if facts else {}
        read = ledger.facts(FEATURES, model, key=str(number), limit=1)
        taints = ledger.facts(TAINT, model, key=snapshot, limit=None) if snapshot else []
        states = _states(ledger, model)
    cut = told.get("label_cut") or (read[0].payload.get("label_cut") if read else None)
    return Detail(
        version=_version(registered[0] if registered else None, verdicts[0] if verdicts else None, states),
        verdict=verdict,
        judged=tuple((fact.at, judged(fact).status) for fact in verdicts),
        snapshot=snapshot,
        code=made.get("code", ""),
        as_of=told.get("as_of", ""),
        cut=datetime.fromisoformat(cut) if cut else None,
        service=read[0].payload["service"] if read else "",
        features=tuple(read[0].payload["features"]) if read else (),
        special=made.get("special", {}),
        datasets=tuple(sorted(told.get("partitions") or (read[0].payload.get("datasets", ()) if read else ()))),
        held=tuple(Held(name, keys) for name, keys in sorted(told.get("partitions", {}).items())),
        exclusions=tuple(told.get("exclusions", ())),
        tainted=tuple(f"{one.payload['dataset']} {one.payload['key']} was replaced since" for one in taints),
    )


def compared(ledger: Ledger, model: str, one: int, two: int) -> Compared:
    """Return two versions side by side.

    :raises DataError: when there is no such version.
    :raises TransientError: when the ledger does not answer.
    """
    left, right = detail(ledger, model, one), detail(ledger, model, two)
    names = dict.fromkeys([*left.version.metrics, *right.version.metrics])
    metrics = [_beside(name, left.version.metrics.get(name), right.version.metrics.get(name)) for name in names]
    checks = [_checks(each.verdict) for each in (left, right)]
    both = dict.fromkeys([*checks[0], *checks[1]])
    return Compared(
        left,
        right,
        tuple(metrics),
        tuple(Beside(name, checks[0].get(name), checks[1].get(name)) for name in both),
        tuple(line for line in _made_of(left, right) if line.one != line.two or line.one == _NOT_RECORDED),
    )


def _beside(name: str, one: float | None, two: float | None) -> Beside:
    less = less_is_better(name)
    if less is None or one is None or two is None or one == two:
        return Beside(name, one, two)
    return Beside(name, one, two, 1 if (one < two) == less else 2)


def _checks(verdict: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return gate, and slice if it has one → the check."""
    return {
        f"{check['gate']} {check['slice']}" if check.get("slice") else str(check["gate"]): check
        for check in verdict.get("checks", ())
    }


def _made_of(one: Detail, two: Detail) -> list[Beside]:
    lines = [
        Beside("asked for by", one.version.why, two.version.why),
        Beside("code that trained it", one.code[:12], two.code[:12]),
        Beside("special", _words(one.special), _words(two.special)),
        Beside("rows", f"{one.version.rows:,}", f"{two.version.rows:,}"),
        Beside("knows labels up to", _moment(one.cut), _moment(two.cut)),
        Beside("feature service", one.service, two.service),
        Beside("features", *_only(one.features, two.features)),
        Beside("gates", _gates(one.verdict), _gates(two.verdict)),
        Beside("exclusions", _left_out(one), _left_out(two)),
    ]
    for name in sorted({*one.datasets, *two.datasets}):
        lines.append(Beside(f"partitions of {name}", _partitions(name, one, two), _partitions(name, two, one)))
        left, right = _revisions(name, one), _revisions(name, two)
        if replaced := sum(left[key] != right[key] for key in left.keys() & right.keys()):
            lines.append(Beside(f"revisions of {name}", "", f"{replaced:,} partitions were replaced"))
    return lines


def _revisions(name: str, one: Detail) -> Mapping[str, str]:
    return next((each.partitions for each in one.held if each.dataset == name), {})


def _partitions(name: str, one: Detail, other: Detail) -> str:
    """Return which partitions of a dataset only one of two versions was trained on, as far as that is recorded."""
    here, there = _revisions(name, one), _revisions(name, other)
    if not here:
        return "not read" if one.datasets and name not in one.datasets else _NOT_RECORDED
    if not there:
        return Held(name, here).words
    return f"only here: {Held(name, {key: here[key] for key in here.keys() - there.keys()}).words}"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at is not None else ""


def _left_out(one: Detail) -> str:
    return _words({each["id"]: each["reason"] for each in one.exclusions})


def _only(one: Sequence[str], two: Sequence[str]) -> tuple[str, str]:
    return ", ".join(name for name in one if name not in two), ", ".join(name for name in two if name not in one)


def _words(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in told.items())


def _gates(verdict: Mapping[str, Any]) -> str:
    return "; ".join(
        " ".join(f"{name}={value}" for name, value in gate.items() if value not in (None, "", [], {}))
        for gate in verdict.get("gates", ())
    )


def _registered(ledger: Ledger, model: str, page: int) -> list[Fact]:
    query = select(FactRow.__table__).where(FactRow.kind == REGISTERED, FactRow.subject == model)
    return _found(ledger, query.order_by(FactRow.id.desc()).limit(PAGE).offset((page - 1) * PAGE))


def _verdicts(ledger: Ledger, model: str, low: int | None, high: int | None) -> list[Fact]:
    """Return the verdicts on the versions from ``low`` to ``high``, newest first; None: without a bound."""
    version = FactRow.payload["version"].as_integer()
    query = select(FactRow.__table__).where(FactRow.kind == VERDICT, FactRow.subject == model)
    query = query if low is None else query.where(version >= low)
    query = query if high is None else query.where(version <= high)
    return _found(ledger, query.order_by(FactRow.id.desc()))


def _found(ledger: Ledger, query: Select[Any]) -> list[Fact]:
    with ledger.transaction() as connection:
        rows = connection.execute(query).mappings().all()
    return [Fact(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in rows]


def _version(registered: Fact | None, verdict: Fact | None, states: Mapping[int, Sequence[str]]) -> Version:
    told = registered or verdict
    assert told is not None
    made = registered.payload if registered is not None else {}
    number = int(made["version"]) if made else int(told.payload["version"])
    last = None if verdict is None else judged(verdict)
    return Version(
        number=number,
        at=told.at,
        status="" if last is None else last.status,
        reason="" if last is None else last.reason,
        states=tuple(states.get(number, ())),
        metrics=made.get("metrics", {}),
        why=made.get("why", ""),
        run=made.get("run", ""),
        rows=made.get("rows", 0),
        seconds=made.get("seconds", 0.0),
        cost=made.get("cost"),
    )


def _states(ledger: Ledger, model: str) -> dict[int, list[str]]:
    """Return version → what it is on which server, and whether the registry no longer has it."""
    found: dict[int, list[str]] = {}
    for state in deployments(ledger, model):
        for version, role in _roles(state):
            found.setdefault(version, []).append(f"{role} on {state.server}")
    for fact in ledger.facts(DELETED, model, limit=None):
        for version in fact.payload["versions"]:
            found.setdefault(int(version), []).append("deleted")
    return found


def _roles(state: Deployment) -> list[tuple[int, str]]:
    roles = [(state.stable, "serves")] if state.stable is not None else []
    roles += [(one, "loaded") for one in state.loaded if one != state.stable]
    roles += [(one, "kept") for one in state.good if one != state.stable and one not in state.loaded]
    roles += [(one, "rolled back") for one in state.rolled_back]
    if state.pin is not None and state.pin.holds(datetime.now(UTC)):
        roles.append((state.pin.version, "pinned"))
    return roles
