"""A transform outside the model: the rows of a snapshot go through it before the model sees them.

The training applies the files that are shipped with the model, from a folder where nothing else lies: what works here
works wherever they are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, TrainingSpec
from airflow_mlops.engine.data.files import checksums, sha256, temporary_sibling
from airflow_mlops.engine.data.snapshot_writer import ROW_GROUP
from airflow_mlops.engine.serving.asking import inputs_of
from airflow_mlops.engine.serving.transform import TOLD, Transform
from airflow_mlops.engine.training.data import WINDOW_ROWS, SplitData, TrainingData
from airflow_mlops.engine.training.finish import Answer
from airflow_mlops.engine.training.inputs import specs_of
from airflow_mlops.engine.training.source import source_files
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import ConfigError, DataError

_ALONE = 4
"""Rows that are also transformed one by one, to see that a row's values follow from itself alone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """What a model is trained on.

    :param spec: The training, whose snapshot has the rows as the model sees them.
    :param features: The snapshot as it was built.
    :param transform: What lies between the two; None: they are the same.
    :param shipped: Folder with what belongs into the model's ``assets.extra/transform``.
    """

    spec: TrainingSpec
    features: Snapshot
    transform: Transform | None = None
    shipped: Path | None = None

    def asked(self, answer: Answer, wanted: Mapping[str, Any]) -> Answer:
        """Return the answers of a model to features.

        :param answer: Its answers to its own inputs.
        :param wanted: Those inputs, by name.
        """
        transform = self.transform
        if transform is None:
            return answer
        return lambda columns: answer(inputs_of(transform, wanted, columns))


@contextlib.contextmanager
def given(spec: TrainingSpec, workdir: Workdir) -> Iterator[Given]:
    """Yield what the model of a training is given; its files are there as long as the block.

    :raises ConfigError: when the transform has no source.
    :raises DataError: when it fails, or gives something that cannot be a model's inputs.
    """
    if not spec.transform:
        yield Given(spec, spec.snapshot)
        return
    folder = temporary_sibling(workdir.saved_model)
    try:
        data = TrainingData(spec.snapshot)
        shipped = _ship(spec, data, folder / "shipped")
        transform = Transform(shipped)
        _check_rows_alone(transform, data.train)
        splits = {}
        features: dict[str, str] = {}
        for split in (data.train, data.validation, data.test):
            file = folder / f"{split.name}.parquet"
            features = _write(transform, split, file, features)
            told = spec.snapshot.splits[split.name]
            splits[split.name] = told.model_copy(update={"file": file.name, "sha256": sha256(file)})
        log.info("The transform %r makes %s of the features", spec.transform, ", ".join(features))
        made = {"uri": str(folder), "features": features, "splits": splits}
        seen = spec.snapshot.model_copy(update=made)
        yield Given(spec.model_copy(update={"snapshot": seen}), spec.snapshot, transform, shipped)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ship(spec: TrainingSpec, data: TrainingData, folder: Path) -> Path:
    """Copy the files of the transform, and write down what it is."""
    files = source_files(spec.transform, spec.code_path)
    if not files:
        raise ConfigError(
            f"There are no Python files of the transform {spec.transform!r} to ship.",
            detail=f"code path: {spec.code_path}",
            hint="It is module:function, of a module beside the DAG file.",
        )
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    inputs, *_ = data.train.arrays(next(_batches(data.train)))
    told = {
        "function": spec.transform,
        "files": checksums(folder),
        "inputs": {name: one.model_dump(mode="json") for name, one in specs_of(inputs).items()},
    }
    (folder / TOLD).write_text(json.dumps(told, indent=2))
    return folder


def _write(transform: Transform, split: SplitData, file: Path, agreed: dict[str, str]) -> dict[str, str]:
    """Write a split as the model sees it, and return column → Arrow type of what the transform gives.

    :param agreed: What it gave before; empty: nothing yet.
    """
    snapshot = split.snapshot
    others = [name for name in (*snapshot.targets, snapshot.weight, snapshot.group, snapshot.event_time) if name]
    with contextlib.ExitStack() as closing:
        writer: pq.ParquetWriter | None = None
        for rows in _batches(split):
            inputs, *_ = split.arrays(rows)
            made = {name: _to_arrow(values) for name, values in transform(inputs).items()}
            types = {name: str(column.type) for name, column in made.items()}
            if taken := [name for name in others if name in made]:
                raise DataError(
                    f"The transform {transform.function!r} gives a column {taken[0]!r}, and the snapshot has one that "
                    "is no feature.",
                    detail=f"label, weight, group and time of a row: {', '.join(others)}",
                    hint="Give it another name.",
                )
            agreed = agreed or types
            if types != agreed:
                raise DataError(
                    f"The transform {transform.function!r} gives other columns for some rows than for others.",
                    detail=f"at first {_listed(agreed)}; in the {split.name} split {_listed(types)}",
                    hint="Give the same columns, in the same order and of the same types, for whatever rows.",
                )
            kept = [name for name in rows.column_names if name not in made and name not in snapshot.features]
            table = pa.table({**{name: rows[name] for name in kept}, **made})
            if writer is None:
                writer = closing.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table, row_group_size=ROW_GROUP)
    return agreed


def _batches(split: SplitData) -> Iterator[pa.Table]:
    with pq.ParquetFile(split.files[0], pre_buffer=False) as file:
        for batch in file.iter_batches(WINDOW_ROWS):
            yield pa.Table.from_batches([batch])


def _check_rows_alone(transform: Transform, split: SplitData) -> None:
    """Refuse a transform that gives a row other values when it comes alone, as a caller sends it."""
    rows = next(_batches(split))
    inputs, *_ = split.arrays(rows)
    together = transform(inputs)
    for row in range(min(_ALONE, rows.num_rows)):
        alone = transform({name: values[row : row + 1] for name, values in inputs.items()})
        if different := [name for name, values in together.items() if not _same(values[row], alone.get(name))]:
            raise DataError(
                f"The transform {transform.function!r} gives a row another {different[0]!r} when it comes alone.",
                detail=f"row {row} of the train split, among {rows.num_rows} rows and alone",
                hint="What it gives must follow from the row itself: a mean or a range of the data belongs into a "
                "constant, or into the model (keras.layers.Normalization).",
            )


def _same(one: Any, alone: np.ndarray | None) -> bool:
    if alone is None:
        return False
    other = alone[0]
    if isinstance(one, np.ndarray) and one.dtype == object:  # texts, filled up to the longest of the rows
        return _stripped(one) == _stripped(other)
    if isinstance(one, str | bytes):
        return bool(one == other)
    return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True))


def _stripped(texts: Any) -> list[Any]:
    kept = np.atleast_1d(texts).tolist()
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _to_arrow(values: np.ndarray) -> pa.Array:
    """Return a column as :func:`~airflow_mlops.engine.training.inputs.read_inputs` reads it."""
    flat = values.ravel()
    if values.dtype != object:
        column = pa.array(flat)
    elif any(isinstance(one, bytes) for one in flat):
        column = pa.array([one if isinstance(one, bytes) else one.encode() for one in flat], pa.large_binary())
    else:
        column = pa.array(flat, pa.string())
    if values.ndim == 1:
        return column
    rows, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), column)


def _listed(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())
