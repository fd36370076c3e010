"""Operators for features: define them, compute a day of them, bring them online, read them for training."""

from airflow_mlops.operators.feast.apply import FeastApplyOperator
from airflow_mlops.operators.feast.compute import FeastComputeFeaturesOperator
from airflow_mlops.operators.feast.materialize import FeastMaterializeOperator, FeastPlanMaterializationOperator
from airflow_mlops.operators.feast.parity import FeastCheckParityOperator
from airflow_mlops.operators.feast.training_data import FeastGetTrainingDataOperator, FeastRebuildTrainingDataOperator

__all__ = [
    "FeastApplyOperator",
    "FeastCheckParityOperator",
    "FeastComputeFeaturesOperator",
    "FeastGetTrainingDataOperator",
    "FeastMaterializeOperator",
    "FeastPlanMaterializationOperator",
    "FeastRebuildTrainingDataOperator",
]
