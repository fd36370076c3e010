"""Who predicts: a SavedModel in this process, or a version on a model server. Both give the same numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from airflow_mlops.contracts import Signature, content_hash
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.serving.asking import as_asked, transform_in
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.exceptions import DataError, TransientError

WAITS = (1.0, 2.0, 4.0)
"""Seconds before a batch is sent again to a server that does not answer."""


class Scorer(Protocol):
    """One version of one model: whatever happens meanwhile, all rows are predicted by it.

    ``version`` is its number, as text; ``identity`` the hash of what it is; ``in_flight`` how many batches may be asked
    for at once. Where a model has a transform, the inputs of ``signature`` are what that takes.
    """

    model: str
    version: str
    identity: str
    signature: Signature
    in_flight: int

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output for some rows."""


class InProcess:
    """A SavedModel, run by TensorFlow's C++ code in this process. Close it, or use it in a ``with`` statement.

    :param saved_model: Its folder.
    :param version: Its number; empty: that of the folder's name, as in a model store, or else the hash of its files.
    :raises DataError: when it cannot be loaded.
    """

    in_flight = 1  # operators use all cores already

    def __init__(self, saved_model: Path, *, model: str, version: str = "") -> None:
        if not saved_model.is_dir():
            raise DataError(
                "There is no SavedModel to predict with.",
                detail=f"{saved_model} is no folder here",
                hint="Name a folder with saved_model.pb that this worker sees.",
            )
        content = tree_hash(saved_model)
        self.model = model
        self.version = version or (saved_model.name if saved_model.name.isdecimal() else content[:16])
        self.identity = content_hash([model, self.version, content])
        transform = load_transform(saved_model)
        self._loaded = SavedModel(saved_model)
        self._loaded.check_whole()
        self.signature, self._answer = as_asked(transform, self._loaded.signature, self._loaded.run)

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output for some rows."""
        return self._answer(inputs)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._loaded.close()


class ThroughServer:
    """A version on a model server. Where a label points is asked once: a promotion meanwhile mixes no versions.

    :param version: Its number.
    :param label: Instead of it, the label that points to it.
    :param store: Folder of the model's versions, in which its transform is found; None: it has none.
    :param in_flight: How many batches may be with the server at once.
    :param waits: Seconds before each further attempt when it does not answer.
    :raises DataError: when the server has no such model, version or label.
    :raises TransientError: when it does not answer.
    """

    def __init__(
        self,
        client: ServingClient,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        store: Path | None = None,
        in_flight: int = 4,
        waits: Sequence[float] = WAITS,
    ) -> None:
        self._client, self._waits = client, waits
        self._number, signature = client.metadata(model, version, None if version else label)
        transform = None if store is None else transform_in(store, self._number)
        self.signature, self._answer = as_asked(transform, signature, self._ask)
        self.model, self.version, self.in_flight = model, str(self._number), in_flight
        # A version's bytes never change: which server it is on says nothing of them.
        self.identity = content_hash([model, self.version])

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output for some rows; asked again when the server does not answer."""
        return self._answer(inputs)

    def _ask(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for wait in self._waits:
            try:
                return self._client.predict(self.model, inputs, self._number)
            except TransientError:
                time.sleep(wait)
        return self._client.predict(self.model, inputs, self._number)
