"""The whole life of a model on Apache Airflow 3.

Everything public is here and loads on first use; importing this package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_mlops.batch import BatchPredict
    from airflow_mlops.feature_rules import FeatureRules
    from airflow_mlops.feeds import Checks, Partitions, SQLSource
    from airflow_mlops.fleet import Fleet
    from airflow_mlops.launchers import Batch, Kubernetes, SageMaker
    from airflow_mlops.partitioning import Partitioning
    from airflow_mlops.parts import Deploy, FeatureService, Gate, Label, Reconcile, Rows, Slice, Trainer
    from airflow_mlops.pipeline import ModelPipeline
    from airflow_mlops.resources import GPU, Resources
    from airflow_mlops.retraining import Retrain, Rollup

__version__ = "0.1.0"

__all__ = [
    "GPU",
    "Batch",
    "BatchPredict",
    "Checks",
    "Deploy",
    "FeatureRules",
    "FeatureService",
    "Fleet",
    "Gate",
    "Kubernetes",
    "Label",
    "ModelPipeline",
    "Partitioning",
    "Partitions",
    "Reconcile",
    "Resources",
    "Retrain",
    "Rollup",
    "Rows",
    "SQLSource",
    "SageMaker",
    "Slice",
    "Trainer",
    "__version__",
]


_ELSEWHERE = {
    "BatchPredict": "batch",
    "FeatureRules": "feature_rules",
    "Fleet": "fleet",
    "ModelPipeline": "pipeline",
    "Partitioning": "partitioning",
    **dict.fromkeys(("Retrain", "Rollup"), "retraining"),
    **dict.fromkeys(("Checks", "Partitions", "SQLSource"), "feeds"),
    **dict.fromkeys(("Batch", "Kubernetes", "SageMaker"), "launchers"),
    **dict.fromkeys(("GPU", "Resources"), "resources"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _ELSEWHERE.get(name, "parts")
    return getattr(importlib.import_module(f"airflow_mlops.{module}"), name)
