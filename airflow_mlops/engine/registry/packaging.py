"""A SavedModel as an MLflow model, without importing TensorFlow.

MLflow's ``tensorflow`` flavor loads a plain SavedModel by tags and signature when it is told so in ``MLmodel``
(its oldest model type, ``tf1-estimator``; the name is history, the loader is today's ``tf.saved_model.load``).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.data.files import checksums

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

SAVED_MODEL = "saved_model"
CHECKSUMS_FILE = "saved_model.sha256.json"


def write_mlmodel(  # noqa: PLR0917
    folder: Path, saved_model: Path, signature: Signature, versions: Mapping[str, str], run_id: str, model_id: str
) -> None:
    """Write what MLflow needs beside a SavedModel into ``folder``: ``MLmodel``, requirements and checksums.

    :param versions: Package → version of what made it, as far as that is known.
    """
    from mlflow.models import Model

    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id, signature=_to_mlflow(signature))
    model.add_flavor(
        "tensorflow",
        model_type="tf1-estimator",
        saved_model_dir=SAVED_MODEL,
        meta_graph_tags=["serve"],
        signature_def_key="serving_default",
    )
    model.add_flavor(
        "python_function",
        loader_module="mlflow.tensorflow",
        python_version=versions.get("python", platform.python_version()),
        env={"virtualenv": "python_env.yaml"},
    )
    model.model_size_bytes = sum(path.stat().st_size for path in saved_model.rglob("*") if path.is_file())
    model.save(str(folder / "MLmodel"))

    requirements = [f"{name}=={versions[name]}" for name in ("tensorflow", "keras", "numpy") if name in versions]
    (folder / "requirements.txt").write_text("\n".join(["mlflow", *requirements]) + "\n")
    python_env = {"python": versions.get("python", ""), "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(python_env, indent=2) + "\n")
    (folder / CHECKSUMS_FILE).write_text(json.dumps(checksums(saved_model), indent=2))


def _to_mlflow(signature: Signature) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema
    from mlflow.types.schema import TensorSpec as MlflowTensorSpec

    def schema(tensors: dict[str, TensorSpec]) -> Schema:
        # Text is an array of objects to MLflow.
        return Schema(
            [
                MlflowTensorSpec(np.dtype("O" if tensor.dtype == "string" else tensor.dtype), tensor.shape, name)
                for name, tensor in tensors.items()
            ]
        )

    return ModelSignature(inputs=schema(signature.inputs), outputs=schema(signature.outputs))
