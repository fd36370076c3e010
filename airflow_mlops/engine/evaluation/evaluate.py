"""Score the challenger, the champion and the baseline on the same test rows."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from airflow_mlops.contracts import EvaluatedHead, Evaluation, ModelManifest, Signature, Snapshot
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.evaluation.measured import Measured, averaged, measures, rated
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE
from airflow_mlops.engine.serving.asking import Predict, as_asked
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.engine.training.inputs import Columns, read_inputs
from airflow_mlops.engine.training.outputs import outputs_of
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

    The baseline says for every row what is usual in the training split: the rate of positives, or of each class, or the
    mean. A champion is measured on the heads that it has. A slice holds every value of its
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
    test, train = read_split(snapshot, "test"), read_split(snapshot, "train", [*slices, *snapshot.targets])
    measured = measures(snapshot, train, test)
    inputs, outputs = read_inputs(test, snapshot.features), outputs_of(snapshot)

    def predictions(saved_model: Path) -> dict[str, np.ndarray]:
        found = scores(saved_model, inputs, list(outputs.values()))
        return {
            label: by_class(
                saved_model, found[outputs[label]], target.classes, "" if label == snapshot.label else label
            )
            for label, target in snapshot.targets.items()
            if outputs[label] in found
        }

    predicted = predictions(challenger)
    if lacking := [label for label in outputs if label not in predicted]:
        raise DataError(
            f"The model has no output {outputs[lacking[0]]!r}, which is to predict {lacking[0]!r}.",
            detail=f"of the snapshot's labels it predicts: {', '.join(predicted)}",
            hint="Export a prediction of each head, called <head>_<output of its problem type>.",
        )
    metrics = {
        "challenger": rated(measured, predicted),
        "baseline": rated(measured, {one.label: one.usual for one in measured}),
    }
    truth = {one.label: one.targets for one in measured}
    averages = {"labels": averaged(measured, truth), "challenger": averaged(measured, predicted)}
    unevaluated = {}
    if champion is not None:
        try:
            serving = predictions(champion)
            metrics["champion"] = rated(measured, serving)
            averages["champion"] = averaged(measured, serving)
        except MlopsError as error:
            unevaluated["champion"] = f"{error.headline} {error.detail}".strip()
    return Evaluation(
        snapshot_id=snapshot.id,
        split="test",
        rows=test.num_rows,
        metrics=metrics,
        slices={column: _by_value(column, train, test, measured, predicted) for column in slices},
        champion_version=champion_version,
        unevaluated=unevaluated,
        problem=snapshot.problem,
        heads={
            one.label: EvaluatedHead(problem=one.problem.name, rows=int(one.known.sum()))
            for one in measured
            if one.label in snapshot.heads
        },
        predicted=averages,
    )


def score(saved_model: Path, inputs: Columns, output: str = "") -> np.ndarray:
    """Return the model's prediction for each row, asked by its own serving signature, through its own transform.

    :param inputs: Raw columns; those that the model, or its transform, does not take are left out.
    :param output: Which of several outputs to take; of one it need not be said.
    :returns: ``float32``, of one number a row or of several.
    :raises DataError: when it takes inputs that are not there, or has several outputs and none of that name.
    """
    return scores(saved_model, inputs, [output])[output]


def scores(saved_model: Path, inputs: Columns, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Return output → predictions, as :func:`score` does, of those outputs that the model has.

    :param outputs: The first one must be there, though a model of one output may call it otherwise.
    """
    with contextlib.closing(SavedModel(saved_model)) as model:
        signature, answer = as_asked(load_transform(saved_model), model.signature, model.run)
        taken = {outputs[0]: _output(signature, inputs, outputs[0])}
        taken |= {name: name for name in outputs[1:] if name in signature.outputs}
        rows = len(next(iter(inputs.values())))
        parts = [
            _score_batch(answer, {name: inputs[name][start : start + _BATCH_ROWS] for name in signature.inputs}, taken)
            for start in range(0, rows, _BATCH_ROWS)
        ]
    nothing = np.empty(0, dtype=np.float32)
    return {name: np.concatenate([part[name] for part in parts]) if parts else nothing for name in taken}


def by_class(saved_model: Path, predicted: np.ndarray, classes: Sequence[str], head: str = "") -> np.ndarray:
    """Return predictions of classes with a column for each of ``classes``, whatever a model was trained on.

    A class that the model does not know has probability 0. What it gave to one that is not among them is spread over
    the others.

    :param head: Of this head, and not of the label.
    :raises DataError: when the model does not say its classes, and has not as many.
    """
    if not classes:
        return predicted
    own = _classes_of(saved_model, head) or tuple(classes)
    if predicted.ndim != 2 or predicted.shape[1] != len(own):
        raise DataError(
            f"The model predicts other classes than the {len(classes)} of the snapshot.",
            detail=f"its predictions are of shape {predicted.shape[1:]}",
            hint="Register it by MLflowRegisterModelOperator: its manifest says its classes.",
        )
    if own == tuple(classes):
        return predicted
    aligned = np.zeros((len(predicted), len(classes)), dtype=predicted.dtype)
    for place, name in enumerate(own):
        if name in classes:
            aligned[:, list(classes).index(name)] = predicted[:, place]
    total = aligned.sum(axis=1, keepdims=True)
    return np.divide(aligned, total, out=np.full_like(aligned, 1 / len(classes)), where=total > 0)


def _classes_of(saved_model: Path, head: str) -> tuple[str, ...]:
    """Return the classes that a registered model's manifest names; none before it is registered."""
    try:
        manifest = ModelManifest.from_json((saved_model / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return ()
    if not head:
        return manifest.classes
    return manifest.heads[head].classes if head in manifest.heads else ()


def _score_batch(answer: Predict, inputs: Columns, outputs: Mapping[str, str]) -> Columns:
    answers = answer(inputs)
    found = {name: np.asarray(answers[output], dtype=np.float32) for name, output in outputs.items()}
    return {
        name: predicted.reshape(-1) if predicted.ndim == 2 and predicted.shape[1] == 1 else predicted
        for name, predicted in found.items()
    }


def _output(signature: Signature, inputs: Columns, output: str) -> str:
    """Return the output that is the prediction, of a model that can be asked."""
    lacking = sorted(set(signature.inputs) - set(inputs))
    if lacking:
        raise DataError(
            "The model takes inputs that the snapshot does not have.",
            detail=f"missing: {', '.join(lacking)}",
            hint="Build the snapshot from the model's own feature service.",
        )
    if len(signature.outputs) == 1:
        return next(iter(signature.outputs))
    if output not in signature.outputs:
        raise DataError(
            f"The model has several outputs, and none is {output!r}.{did_you_mean(output, signature.outputs)}",
            detail=f"outputs: {', '.join(signature.outputs)}",
            hint=f"Export the prediction as the output {output!r}.",
        )
    return output


def _check_slices(snapshot: Snapshot, slices: Sequence[str]) -> None:
    for column in slices:
        if column not in snapshot.features:
            raise ConfigError(
                f"There is no model input {column!r} to slice by.{did_you_mean(column, snapshot.features)}",
                detail=f"model inputs: {', '.join(snapshot.features)}",
                hint="Slice(column) takes one of them.",
            )


def _by_value(
    column: str, train: pa.Table, test: pa.Table, measured: Sequence[Measured], predicted: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    trained = _texts(train.column(column))
    tested = _texts(test.column(column))
    share = len(tested) / max(len(trained), 1)
    promised, found = Counter(trained.tolist()), Counter(tested.tolist())
    rare = [value for value in promised | found if max(found[value], promised[value] * share) < _NAMED_FROM]
    trained[np.isin(trained, rare)] = tested[np.isin(tested, rare)] = _RARE
    result = {}
    for value in np.union1d(np.unique(trained), np.unique(tested)).tolist():
        of_value: dict[str, float] = {}
        for one in measured:
            of_value |= one.counted(tested == value, trained == value)
        result[value] = of_value | rated(measured, predicted, tested == value)
    return result


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(column.cast(pa.string()), _MISSING).to_numpy(), dtype=object)
