"""Metrics of a binary classifier. What is not defined is NaN, and NaN passes no gate."""

from __future__ import annotations

import math

import numpy as np
from sklearn import metrics

from airflow_mlops.parts import METRICS

_EPSILON = 1e-7
_THRESHOLD = 0.5


def binary_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return ``auc``, ``log_loss``, ``brier`` and ``accuracy``.

    :param labels: 0 or 1.
    :param probabilities: Of label 1. A single one that is no number in [0, 1] makes every metric NaN.
    """
    valid = np.isfinite(probabilities) & (probabilities >= 0) & (probabilities <= 1)
    if not len(labels) or not valid.all():
        return dict.fromkeys(METRICS, math.nan)
    predicted = probabilities.astype(np.float64)
    return {
        "auc": float(metrics.roc_auc_score(labels, predicted)) if len(np.unique(labels)) == 2 else math.nan,
        "log_loss": float(metrics.log_loss(labels, np.clip(predicted, _EPSILON, 1 - _EPSILON), labels=[0, 1])),
        "brier": float(np.mean((predicted - labels) ** 2)),
        "accuracy": float(np.mean((predicted >= _THRESHOLD) == (labels == 1))),
    }
