"""A partition of predictions, sealed: in shards that a retry takes up where the last attempt was killed.

::

    <home>/predictions/<dataset>/<key>/<identity>/part-00000.parquet

The identity is the hash of the model's version, the rows, their features and how they are cut into shards. A shard
appears by one rename. When all are there they are validated and sealed, and the folder goes.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Partition, ValidationResult
from airflow_mlops.engine.data.lateness import mark_late
from airflow_mlops.engine.data.parquet import open_writer, readable
from airflow_mlops.engine.data.partitions import FACT, PartitionStore
from airflow_mlops.engine.data.shared import fetch, publishing, withdraw
from airflow_mlops.engine.data.validation import enforce, validate
from airflow_mlops.engine.prediction.outputs import as_column, rows_with_nan
from airflow_mlops.engine.prediction.plan import EVENT_TIME, Plan
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.validation import Suite
    from airflow_mlops.engine.ledger import Ledger

PREDICTION = "prediction"
"""Kind of the ledger's fact of what a partition of predictions was made of; subject is the dataset, key the partition.
"""

_NAN = b"airflow_mlops.nan"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """A sealed partition of predictions, and how it came about.

    :param shards: How many shards its rows were cut into.
    :param taken_up: How many of them an earlier attempt had finished.
    :param nan: Output → in how many rows it is NaN, where it is in any.
    """

    partition: Partition
    model: str
    version: str
    shards: int
    taken_up: int
    nan: Mapping[str, int]


def predict_partition(
    plan: Plan,
    *,
    home: Path,
    store: PartitionStore,
    ledger: Ledger | None,
    dataset: str,
    key: str,
    suite: Suite | None = None,
    report: Callable[[ValidationResult], None] | None = None,
) -> Predictions:
    """Predict all rows and seal the predictions as the partition ``key`` of a dataset.

    The same rows by the same version are not predicted twice: shards that an attempt before had finished are taken up,
    and a partition that is sealed already is left as it is. No rows give an empty partition.

    :param ledger: Where what it was made of is written down; None when there is no ledger.
    :param suite: What the predictions must meet before they are sealed.
    :param report: Called with what the suite said, before it refuses anything.
    :raises ConfigError: when a column, or the key, is none.
    :raises DataError: when an entity of a sealed partition is there twice at one time, rows lack an input or hold what
        the model does not take, the model fails, the suite refuses the predictions, or their times are not those of
        the partition.
    :raises TransientError: when the model server, the storage or the ledger does not answer, or rows or features
        changed meanwhile. What is predicted by then is kept.
    """
    begins = store.partitioning(dataset).interval(key)[0]
    identity = plan.identity
    folder = home / "predictions" / dataset / key / identity[:16]
    made_of = {"identity": identity, "suite_hash": None if suite is None else suite.hash}
    if (known := _known(ledger, store, dataset, key, made_of)) is not None:
        _log.info("%s %s holds these predictions already: revision %s.", dataset, key, known.partition.revision)
        return known
    plan.rows.check_once(plan.entity, plan.event_time)
    taken_up = _write_shards(plan, folder, begins)
    plan.rows.check_unchanged()
    if plan.features is not None:
        plan.features.check_unchanged()
    files = sorted(folder.glob("part-*.parquet"))
    nan = _nan_of(files)
    for name, count in nan.items():
        _log.warning("Output %r is NaN in %s of %s rows.", name, count, plan.rows.count)
    result = None if suite is None else validate(files, suite, batch=f"{dataset} {key}", may_be_empty=True)
    if result is not None:
        if ledger is not None:
            ledger.record("validation", dataset, result.model_dump(mode="json"), key=key)
        if report is not None:
            report(result)
        enforce(result)
    partition = store.seal(
        dataset,
        key,
        folder,
        event_time=plan.event_time or EVENT_TIME,
        batch_hash=None if result is None else result.batch_hash,
        suite_hash=None if result is None else result.suite_hash,
        may_be_empty=True,
    )
    made = Predictions(partition, plan.scorer.model, plan.scorer.version, len(files), taken_up, nan)
    if ledger is not None:
        _record(ledger, made, plan, made_of)
    withdraw(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return made


def _write_shards(plan: Plan, folder: Path, begins: datetime) -> int:
    """Write the shards that are not there yet; return how many were."""
    size, count = plan.shard_rows, plan.rows.count
    shards = max(1, -(-count // size))
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder)
    done = {number for number in range(shards) if _shard(folder, number).exists()}
    if not count:
        _log.warning("There are no rows in %s: an empty partition is sealed.", plan.rows.name)
    if done:
        _log.info("%s of %s shards are there from an earlier attempt.", len(done), shards)

    def is_done(start: int, end: int) -> bool:
        return done.issuperset(range(start // size, -(-end // size)))

    if not count and not done:
        with _written(_shard(folder, 0), plan, begins):
            pass
    pieces = _cut(plan.rows.batches(plan.read, plan.batch_rows, is_done), size)
    for number, of_shard in itertools.groupby(pieces, key=lambda piece: piece[0] // size):
        if number in done:
            continue
        with _written(_shard(folder, number), plan, begins) as write:
            for table, answers in _answered(plan, (_identified(plan, table) for _, table in of_shard)):
                write(table, answers)
        _log.info("Predicted %s of %s rows.", min(count, (number + 1) * size), count)
    return len(done)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05}.parquet"


def _cut(batches: Iterator[tuple[int, pa.Table]], size: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield batches of which none lies in two shards."""
    for start, table in batches:
        first = 0
        while first < table.num_rows:
            rows = min(table.num_rows - first, size - (start + first) % size)
            yield start + first, table.slice(first, rows)
            first += rows


def _identified(plan: Plan, table: pa.Table) -> pa.Table:
    """Return rows that all have an entity and a time.

    :raises DataError: when one has none.
    """
    for name in filter(None, (plan.entity, plan.event_time)):
        if nulls := table[name].null_count:
            raise DataError(
                f"{nulls} of {table.num_rows} rows that were read together have no {name!r}.",
                detail=plan.rows.name,
                hint="A prediction is found again by them: mend the rows, or leave these out.",
            )
    return table


def _answered(plan: Plan, tables: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, Mapping[str, np.ndarray]]]:
    """Yield the rows of a shard with the model's answers, in order; a bounded number of batches is on the way."""
    if plan.features is not None:  # one join a shard
        tables = _slices(plan.features.beside(pa.concat_tables(tables)), plan.batch_rows)
    if plan.scorer.in_flight == 1:
        yield from ((table, _ask(plan, table)) for table in tables)
        return
    asked: deque[tuple[pa.Table, Future[dict[str, np.ndarray]]]] = deque()
    with ThreadPoolExecutor(plan.scorer.in_flight) as pool:
        try:
            for table in tables:
                asked.append((table, pool.submit(_ask, plan, table)))
                if len(asked) > plan.scorer.in_flight:
                    earlier, answer = asked.popleft()
                    yield earlier, answer.result()
            while asked:
                earlier, answer = asked.popleft()
                yield earlier, answer.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ask(plan: Plan, table: pa.Table) -> dict[str, np.ndarray]:
    features = {name: str(table.schema.field(name).type) for name in plan.inputs}
    return plan.scorer.predict(read_inputs(table, features))


def _slices(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    return (table.slice(start, rows) for start in range(0, table.num_rows, rows))


@contextmanager
def _written(
    file: Path, plan: Plan, begins: datetime
) -> Iterator[Callable[[pa.Table, Mapping[str, np.ndarray]], None]]:
    """Yield what writes rows with their predictions; the file is there when the block ends well."""
    schema, outputs, at = plan.schema, plan.scorer.signature.outputs, datetime.now(UTC)
    nan: Counter[str] = Counter()
    stamps = {EVENT_TIME: begins, "model": plan.scorer.model, "version": plan.scorer.version, "predicted_at": at}

    def column(field_: pa.Field, table: pa.Table, answers: Mapping[str, np.ndarray]) -> pa.Array | pa.ChunkedArray:
        name, rows = field_.name, table.num_rows
        if name in outputs:
            nan[name] += rows_with_nan(answers[name])
            return as_column(name, answers[name], outputs[name], rows)
        if name in plan.kept:
            return table[name]
        return pa.repeat(pa.scalar(stamps[name], field_.type), rows)

    def write(table: pa.Table, answers: Mapping[str, np.ndarray]) -> None:
        writer.write_table(pa.Table.from_arrays([column(one, table, answers) for one in schema], schema=schema))

    with publishing(file) as made, open_writer(made, schema) as writer:
        yield write
        writer.add_key_value_metadata({_NAN: json.dumps({name: n for name, n in nan.items() if n}).encode()})


def _nan_of(files: Sequence[Path]) -> dict[str, int]:
    nan: Counter[str] = Counter()
    for file in files:
        with readable(file):
            nan.update(json.loads((pq.read_metadata(file).metadata or {}).get(_NAN, b"{}")))
    return dict(nan)


def _known(
    ledger: Ledger | None, store: PartitionStore, dataset: str, key: str, made_of: Mapping[str, str | None]
) -> Predictions | None:
    """Return the partition that is sealed now, if it was made of the same, and met the same suite."""
    last = [] if ledger is None else ledger.facts(PREDICTION, dataset, key=key, limit=1)
    said = last[0].payload if last else {}
    if not made_of.items() <= said.items() or store.current(dataset, key) != said["revision"]:
        return None
    partition = store.get(dataset, key)
    return Predictions(partition, said["model"], said["version"], said["shards"], said["shards"], said["nan"])


def _record(ledger: Ledger, made: Predictions, plan: Plan, made_of: Mapping[str, str | None]) -> None:
    """Write down what a partition was made of; a model that was trained on what it replaced has not seen it."""
    partition = made.partition
    fact = {
        "revision": partition.revision,
        "model": made.model,
        "version": made.version,
        "rows_of": dict(plan.rows.partition) or plan.rows.name,
        "rows_hash": plan.rows.identity,
        "rows": partition.rows,
        "shards": made.shards,
        "nan": dict(made.nan),
        **made_of,
    }
    ledger.record(PREDICTION, partition.dataset, fact, key=partition.key)
    for sealed in ledger.facts(FACT, partition.dataset, key=partition.key):
        if sealed.payload["revision"] == partition.revision and sealed.payload["replaces"]:
            mark_late(ledger, partition.dataset, partition.key, sealed.payload["replaces"], partition.revision)
