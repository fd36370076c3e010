"""Asking a model with features: through its transform, where it has one.

::

    with ServingClient("localhost", 8500) as client:
        churn = FeatureClient(client, "churn", Path("/srv/models/churn"))
        answer = churn.predict({"price": [40.0], "city": ["Bonn"]})

A model server is sent what the model takes, and knows nothing of transforms: neither TensorFlow Serving nor the
embedded one. So whoever asks applies that of the version that answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.serving.transform import Columns, Transform, load_transform
from airflow_mlops.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.engine.serving.client import ServingClient

Predict = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

_log = logging.getLogger(__name__)


class FeatureClient:
    """Asks the version behind a label of a model server with features, through its own transform.

    :param client: Of the server.
    :param model: Name of the model on it.
    :param store: Folder of the model's versions, as the server reads them, or a copy.
    """

    def __init__(self, client: ServingClient, model: str, store: Path) -> None:
        self._client, self._model, self._store = client, model, store
        self._transforms: dict[int, Transform | None] = {}

    def predict(self, columns: Mapping[str, Any], label: str = "stable") -> dict[str, np.ndarray]:
        """Return the outputs for some rows of features: name → one value a row.

        :raises DataError: when there is no such model or label, or the columns are not those that it takes.
        :raises TransientError: when the server does not answer.
        """
        version, signature = self._client.metadata(self._model, label=label)
        if version not in self._transforms:
            self._transforms[version] = transform_in(self._store, version)
        transform = self._transforms[version]
        given = {name: np.asarray(values) for name, values in columns.items()}
        inputs = given if transform is None else inputs_of(transform, signature.inputs, columns)
        return self._client.predict(self._model, inputs, version)


def transform_in(store: Path, version: int) -> Transform | None:
    """Return the transform of a version on a model server.

    A version whose folder is not there is taken for one without, and the log says so.

    :param store: Folder of the model's versions, as the server reads them.
    :raises DataError: as :func:`load_transform`.
    """
    folder = store / str(version)
    if not folder.is_dir():
        _log.warning(
            "Whether version %s has a transform is not known: %s is not there. Its inputs are asked for as they are.",
            version, folder,
        )  # fmt: skip
        return None
    return load_transform(folder)


def as_asked(transform: Transform | None, signature: Signature, predict: Predict) -> tuple[Signature, Predict]:
    """Return a model's signature and its answers as those see them who ask with features.

    :param transform: The model's; None: it takes the features themselves.
    :param signature: The model's own.
    :param predict: Answers the inputs of ``signature``.
    """
    if transform is None:
        return signature, predict

    def answer(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return predict(inputs_of(transform, signature.inputs, columns))

    return signature_asked(transform, signature), answer


def signature_asked(transform: Transform | None, signature: Signature) -> Signature:
    """Return a model's signature with the features that its transform takes as the inputs."""
    if transform is None:
        return signature
    specs = {name: TensorSpec.model_validate(told) for name, told in transform.inputs.items()}
    return signature.model_copy(update={"inputs": specs})


def inputs_of(transform: Transform, wanted: Mapping[str, Any], columns: Mapping[str, Any]) -> Columns:
    """Return the inputs of a model for some rows of features; what the model does not take is left out.

    :param wanted: The model's inputs, by name.
    :raises DataError: when the transform does not give one.
    """
    made = transform(columns)
    if missing := [name for name in wanted if name not in made]:
        raise DataError(
            f"The transform {transform.function!r} gives no {missing[0]!r}, which the model takes."
            f"{did_you_mean(missing[0], made)}",
            detail=f"it gives {', '.join(made)}; the model takes {', '.join(wanted)}",
            hint="Give all of the model's inputs, for whatever rows.",
        )
    return {name: made[name] for name in wanted}
