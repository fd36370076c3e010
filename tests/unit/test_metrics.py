"""Metrics: right where defined, NaN where not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from airflow_mlops.engine.evaluation.metrics import binary_metrics
from airflow_mlops.parts import METRICS


def test_known_values():
    labels = np.array([0, 0, 1, 1])
    found = binary_metrics(labels, np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32))
    assert found == pytest.approx({"auc": 0.75, "log_loss": 0.472288, "brier": 0.158125, "accuracy": 0.75}, abs=1e-5)


def test_every_gate_metric_is_computed():
    assert set(binary_metrics(np.array([0, 1]), np.array([0.2, 0.7]))) == set(METRICS)


def test_constant_prediction_tells_nothing_apart():
    assert binary_metrics(np.array([0, 1, 1, 0]), np.full(4, 0.3))["auc"] == 0.5


def test_one_class_has_no_auc_but_a_loss():
    found = binary_metrics(np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert math.isnan(found["auc"])
    assert found["log_loss"] == pytest.approx(0.228393, abs=1e-5)


def test_certain_and_wrong_is_finite():
    assert math.isfinite(binary_metrics(np.array([0, 1]), np.array([1.0, 0.0]))["log_loss"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_one_bad_probability_spoils_all(bad: float):
    found = binary_metrics(np.array([0, 1, 1]), np.array([0.2, bad, 0.9]))
    assert all(math.isnan(value) for value in found.values())


def test_no_rows_no_metrics():
    assert all(math.isnan(value) for value in binary_metrics(np.empty(0), np.empty(0)).values())
