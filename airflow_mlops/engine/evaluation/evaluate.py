"""Score the challenger, the champion and the baseline on the same test rows."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Evaluation, Signature, Snapshot
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.evaluation.metrics import binary_metrics
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.inputs import Columns, read_inputs, read_labels
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, did_you_mean

_BATCH_ROWS = 8192
_MISSING = "(missing)"
_RARE = "(rare)"
_NAMED_FROM = 10
"""Fewest rows of a slice's value, tested or promised, with which it is named: a rare one may name a person."""


def evaluate(
    snapshot: Snapshot,
    challenger: Path,
    champion: Path | None = None,
    champion_version: str | None = None,
    slices: Sequence[str] = (),
) -> Evaluation:
    """Return the metrics of both models and of the baseline on the snapshot's test split.

    The baseline says the training split's rate of positives for every row. A slice holds every value of its
    column in the training or the test split with ``n`` (rows tested) and ``expected_n`` (rows that its share of
    the training split promised), so that one that vanished is seen. Values of fewer than ten are one slice together.

    :param challenger: Folder of the challenger's SavedModel.
    :param champion: Folder of the champion's SavedModel; None when nothing serves yet.
    :param champion_version: Its version.
    :param slices: Model inputs to slice the challenger's metrics by.
    :raises DataError: when the challenger cannot be scored. A champion that cannot is ``unevaluated``.
    :raises ConfigError: when a slice is not a model input.
    """
    _check_slices(snapshot, slices)
    test = read_split(snapshot, "test")
    train = read_split(snapshot, "train").select([*slices, snapshot.label])
    labels = read_labels(test, snapshot.label)
    inputs = read_inputs(test, snapshot.features)

    probabilities = score(challenger, inputs)
    positive_rate = float(read_labels(train, snapshot.label).mean()) if train.num_rows else np.nan
    metrics = {
        "challenger": binary_metrics(labels, probabilities),
        "baseline": binary_metrics(labels, np.full(len(labels), positive_rate)),
    }
    unevaluated = {}
    if champion is not None:
        try:
            metrics["champion"] = binary_metrics(labels, score(champion, inputs))
        except MlopsError as error:
            unevaluated["champion"] = f"{error.headline} {error.detail}".strip()
    return Evaluation(
        snapshot_id=snapshot.id,
        split="test",
        rows=len(labels),
        metrics=metrics,
        slices={column: _by_value(column, train, test, labels, probabilities) for column in slices},
        champion_version=champion_version,
        unevaluated=unevaluated,
    )


def score(saved_model: Path, inputs: Columns) -> np.ndarray:
    """Return the model's probability for each row, asked by its own serving signature.

    :param inputs: Raw columns; those that the model does not take are left out.
    :raises DataError: when it takes inputs that are not there, or has not one output.
    """
    with contextlib.closing(SavedModel(saved_model)) as model:
        _check_signature(model.signature, inputs)
        rows = len(next(iter(inputs.values())))
        parts = [
            _score_batch(model, {name: inputs[name][start : start + _BATCH_ROWS] for name in model.signature.inputs})
            for start in range(0, rows, _BATCH_ROWS)
        ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _score_batch(model: SavedModel, inputs: Columns) -> np.ndarray:
    (output,) = model.run(inputs).values()
    return np.asarray(output, dtype=np.float32).reshape(-1)


def _check_signature(signature: Signature, inputs: Columns) -> None:
    lacking = sorted(set(signature.inputs) - set(inputs))
    if lacking:
        raise DataError(
            "The model takes inputs that the snapshot does not have.",
            detail=f"missing: {', '.join(lacking)}",
            hint="Build the snapshot from the model's own feature service.",
        )
    if len(signature.outputs) != 1:
        raise DataError(
            "The model must have one output, the probability.",
            detail=f"outputs: {', '.join(signature.outputs)}",
            hint="Export it with a single output.",
        )


def _check_slices(snapshot: Snapshot, slices: Sequence[str]) -> None:
    for column in slices:
        if column not in snapshot.features:
            raise ConfigError(
                f"There is no model input {column!r} to slice by.{did_you_mean(column, snapshot.features)}",
                detail=f"model inputs: {', '.join(snapshot.features)}",
                hint="Slice(column) takes one of them.",
            )


def _by_value(
    column: str, train: pa.Table, test: pa.Table, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, dict[str, float]]:
    trained = _texts(train.column(column))
    tested = _texts(test.column(column))
    share = len(tested) / max(len(trained), 1)
    promised, found = Counter(trained.tolist()), Counter(tested.tolist())
    rare = [value for value in promised | found if max(found[value], promised[value] * share) < _NAMED_FROM]
    trained[np.isin(trained, rare)] = tested[np.isin(tested, rare)] = _RARE
    result = {}
    for value in np.union1d(np.unique(trained), np.unique(tested)).tolist():
        rows = tested == value
        result[value] = {
            "n": float(rows.sum()),
            "expected_n": round(float((trained == value).sum() * share), 1),
            **binary_metrics(labels[rows], probabilities[rows]),
        }
    return result


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column.cast(pa.string()), _MISSING).to_numpy(), dtype=object)
