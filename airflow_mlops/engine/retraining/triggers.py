"""Whether something asks for a training: new rows, drift, decay, new features. From the ledger, without reading data.

Each is measured against the last training: what it has seen asks for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_mlops.engine.data.lateness import SNAPSHOT
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.governance.consumers import KIND, ModelFeatures, applied, read_by
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.decay import measure_decay
from airflow_mlops.engine.retraining.drift import Trained, measure_drift
from airflow_mlops.engine.retraining.fresh import Fresh
from airflow_mlops.engine.retraining.registered import backfilled
from airflow_mlops.engine.retraining.requests import Reason
from airflow_mlops.engine.retraining.rollup import Rollup, due
from airflow_mlops.exceptions import DataError


@dataclass(frozen=True)
class Watch:
    """What to look at of a model, and from which values on it asks for a training; None: not at all.

    :param server: Airflow connection of the server on which it serves.
    :param source: Dataset with a row an entity.
    :param labels: Dataset with the label.
    :param inputs: Datasets whose columns are held against those of the training.
    :param entity: Column that identifies a row of both.
    :param label: Column of what is predicted.
    :param problem: Problem type; empty: by the label.
    :param matures_after: How long after its time the label of a row can still come.
    :param service: Feature service of the pipeline as it is now.
    :param new_rows: So many new rows with matured labels.
    :param drift_psi: Population stability index of a column.
    :param decay: Metric, and by how much it may be worse on matured labels than when the model was judged.
    :param on_new_features: Whether a new version or definition of the feature service does.
    :param rollup: Partitions that are trained on together.
    :param first: Model of a fleet that tries new code first, if it is another one.
    :param code: Hash of the code that a training runs now.
    """

    model: str
    server: str
    source: str
    labels: str
    inputs: tuple[str, ...]
    entity: str
    label: str
    problem: str
    matures_after: timedelta
    service: str
    new_rows: int | None = None
    drift_psi: float | None = None
    decay: tuple[str, float] | None = None
    on_new_features: bool = False
    rollup: Rollup | None = None
    first: str = ""
    code: str = ""


@dataclass(frozen=True)
class Trigger:
    """One trigger as it was found: its value beside the bound from which on it fires, and what there is to say.

    :param about: What it is asked for once of, such as a week; empty: since the last training.
    """

    reason: Reason
    fires: bool
    value: float | None
    bound: float | None
    detail: str
    about: str = ""


@dataclass(frozen=True)
class Basis:
    """The last training that made a version, and what it was made of: dataset → key → revision."""

    version: int
    snapshot: str
    features: ModelFeatures
    partitions: dict[str, dict[str, str]]
    at: datetime

    def last_key(self, dataset: str) -> str:
        """Return the newest partition of a dataset that it has seen."""
        return max(self.partitions.get(dataset, {}), default="")


def basis_of(ledger: Ledger, model: str) -> Basis | None:
    """Return the last training of a model that made a version; None when none did.

    One of Airflow's own backfill is not the last, if there is another: what it has not seen, that one has.
    """
    last = ledger.facts(KIND, model, limit=1)
    if last and backfilled(ledger, model, int(last[0].key)):
        every = ledger.facts(KIND, model, limit=None)
        last = [next((fact for fact in every if not backfilled(ledger, model, int(fact.key))), last[0])]
    if not last:
        return None
    features = ModelFeatures.model_validate(last[0].payload)
    return Basis(features.version, features.snapshot, features, _made_of(ledger, features), last[0].at)


def look(
    ledger: Ledger, store: PartitionStore, home: Path, watch: Watch, stable: int | None
) -> tuple[Basis | None, list[Trigger]]:
    """Return the last training, and what each trigger says that is asked for.

    :param stable: Version that serves; None: none, and the last training's is taken for it.

    :raises TransientError: when the ledger or the storage does not answer.
    """
    basis = basis_of(ledger, watch.model)
    rolled = [] if watch.rollup is None else [_rollup(ledger, store, watch.model, watch.rollup, basis)]
    if basis is None:
        asked = {"new_rows": watch.new_rows, "drift": watch.drift_psi, "decay": watch.decay and watch.decay[1]}
        asked |= {"features": 1.0 if watch.on_new_features else None}
        nothing = "the model was never trained: the first training is by cron or by hand"
        return None, rolled + [
            Trigger(reason, False, None, bound, nothing)  # type: ignore[arg-type]
            for reason, bound in asked.items()
            if bound is not None
        ]
    sight = _Sight(ledger, store, home, watch, basis, Fresh(ledger, store))
    return basis, [*rolled, *_triggers(sight, stable or basis.version)]


@dataclass(frozen=True)
class _Sight:
    """Where one look looks."""

    ledger: Ledger
    store: PartitionStore
    home: Path
    watch: Watch
    basis: Basis
    fresh: Fresh


def _triggers(sight: _Sight, serving: int) -> Iterator[Trigger]:
    watch = sight.watch
    if watch.new_rows is not None:
        yield _new_rows(sight, watch.new_rows)
    if watch.on_new_features:
        yield _new_features(sight.ledger, watch, sight.basis)
    if watch.drift_psi is not None:
        yield _drift(sight, serving, watch.drift_psi)
    if watch.decay is not None:
        metric, bound = watch.decay
        worse, detail = measure_decay(sight.ledger, sight.store, sight.home, watch, serving, metric)
        yield Trigger("decay", worse is not None and worse > bound, worse, bound, detail)


def _new_rows(sight: _Sight, bound: int) -> Trigger:
    """Count the rows that a training now would have and the last one had not: sealed since, and their labels matured.

    The rows of a partition are known from when it was sealed. Those that a person excluded do not count.
    """
    watch, store, since = sight.watch, sight.store, sight.basis.last_key(sight.watch.source)
    sealed = {key: one["rows"] for key, one in sight.fresh.after(watch.source, since).items()}
    labelled = sealed if watch.labels == watch.source else sight.fresh.after(watch.labels, since)
    if not sealed or not labelled:
        return Trigger("new_rows", False, 0, bound, f"0 new rows since {since}, {bound:,} are asked for")
    cut = store.partitioning(watch.source)
    known = store.partitioning(watch.labels).interval(max(labelled))[1] - watch.matures_after
    matured = {key: rows for key, rows in sealed.items() if cut.interval(key)[1] <= known}
    rows, waiting = sum(matured.values()), sum(sealed.values()) - sum(matured.values())
    detail = f"{rows:,} new rows since {since}, {bound:,} are asked for"
    if waiting:
        detail += f"; {waiting:,} more have no matured label yet"
    return Trigger("new_rows", rows >= bound, rows, bound, detail)


def _new_features(ledger: Ledger, watch: Watch, basis: Basis) -> Trigger:
    """Say whether the feature service is another one, or means something else, than what the last training read."""
    had = basis.features
    said = f"features are those of the last training: {had.service}"
    if watch.service != had.service:
        return Trigger("features", True, 1, 1, f"the feature service is {watch.service}, was {had.service}")
    repo = applied(ledger, had.project) if had.project else None
    if repo is None or watch.service not in repo.services:
        return Trigger("features", False, 0, 1, f"nothing was applied of feature service {watch.service}")
    if repo.definition_hash(watch.service) != had.definition:
        return Trigger("features", True, 1, 1, f"the definition of feature service {watch.service} changed")
    return Trigger("features", False, 0, 1, said)


def _rollup(ledger: Ledger, store: PartitionStore, model: str, rollup: Rollup, basis: Basis | None) -> Trigger:
    known = ledger.facts(SNAPSHOT, model, key=basis.snapshot, limit=1) if basis is not None else []
    seen = datetime.fromisoformat(known[0].payload["as_of"]) if known else None
    fires, period, words = due(ledger, store, model, rollup, seen=seen, now=datetime.now(UTC))
    return Trigger("rollup", fires, period.there, period.of, words, about=period.key)


def _drift(sight: _Sight, serving: int, bound: float) -> Trigger:
    basis, model = sight.basis, sight.watch.model
    read = basis.features if serving == basis.version else read_by(sight.ledger, model, serving) or basis.features
    made_of = basis.partitions if read.snapshot == basis.snapshot else _made_of(sight.ledger, read)
    trained = Trained(sight.ledger, sight.store, sight.home, sight.watch, read.snapshot, made_of, read.features)
    try:
        found = measure_drift(trained, sight.fresh, bound)
    except DataError as error:
        return Trigger("drift", False, None, bound, f"{error.headline} {error.detail}".strip())
    return Trigger("drift", bool(found.beyond), found.largest, bound, found.words)


def _made_of(ledger: Ledger, read: ModelFeatures) -> dict[str, dict[str, str]]:
    """Return dataset → key → revision of what a version was trained on; nothing where that was not written down."""
    found = ledger.facts(SNAPSHOT, read.model, key=read.snapshot, limit=1)
    return found[0].payload["partitions"] if found else {}
