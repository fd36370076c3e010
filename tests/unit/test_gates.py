"""Gates: what passes, what fails, and why."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from airflow_mlops.contracts import Evaluation, Predicted, VerdictStatus
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.parts import Gate, Slice

GOOD = {"auc": 0.72, "log_loss": 0.50, "brier": 0.16, "accuracy": 0.77}
BASELINE = {"auc": 0.50, "log_loss": 0.55, "brier": 0.18, "accuracy": 0.76}
BY_CARRIER = Gate("log_loss", max=0.9, by=Slice("carrier", min_n=500))


def evaluation(challenger: dict[str, float] | None = None, **changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "snapshot_id": "s",
        "split": "test",
        "rows": 1000,
        "metrics": {"challenger": GOOD | (challenger or {}), "baseline": BASELINE},
    }
    values["metrics"] |= changes.pop("metrics", {})
    return Evaluation(**(values | changes))


def verdict(gate: Gate, found: Evaluation):
    return judge("m", [asdict(gate)], found)


def only_failed(gate: Gate, found: Evaluation) -> str:
    judged = verdict(gate, found)
    assert judged.status is VerdictStatus.FAIL
    (failed,) = [check for check in judged.checks if not check.passed]
    return failed.reason


def test_a_mean_prediction_that_moved_is_named_and_refuses_nothing():
    """Labels that stop to come make a model that says no more often than the one that serves."""

    def line(mean: float, **more: Any):
        means = {"labels": 0.21, "challenger": mean, "champion": 0.2}
        predicted = {role: {"": Predicted(mean=value, std=0.1)} for role, value in means.items()}
        judged = verdict(Gate("auc", min=0.7), evaluation(predicted=predicted | more))
        assert judged.status is VerdictStatus.PASS
        assert judged.inputs_hash == verdict(Gate("auc", min=0.7), evaluation()).inputs_hash, "it decides nothing"
        return [check.reason for check in judged.checks if check.gate == "mean prediction vs champion"]

    assert line(0.22) == ["0.2200 (champion: 0.2000, labels: 0.2100)"]
    [moved] = line(0.12)
    assert moved.startswith("WARNING: 0.1200 (champion: 0.2000, labels: 0.2100): further apart than 0.5 of the labels'")
    assert line(0.12, champion={}) == [], "nothing serves yet"


@pytest.mark.parametrize(
    ("gate", "status"),
    [
        (Gate("auc", min=0.72), "PASS"),
        (Gate("auc", min=0.7201), "FAIL"),
        (Gate("log_loss", max=0.50), "PASS"),
        (Gate("log_loss", max=0.49), "FAIL"),
        (Gate("auc", min=0.7, max=0.8), "PASS"),
        (Gate("auc", min=0.6, max=0.7), "FAIL"),
        (Gate("auc", vs="baseline", min_gain=0.2), "PASS"),
        (Gate("auc", vs="baseline", min_gain=0.23), "FAIL"),
        (Gate("log_loss", vs="baseline", min_gain=0.04), "PASS"),
        (Gate("log_loss", vs="baseline", min_gain=0.06), "FAIL"),
    ],
)
def test_bounds(gate: Gate, status: str):
    assert verdict(gate, evaluation()).status == status


@pytest.mark.parametrize(
    ("gate", "status"),
    [
        (Gate("auc", vs="champion", max_drop=0.02), "PASS"),
        (Gate("auc", vs="champion", max_drop=0.005), "FAIL"),
        (Gate("log_loss", vs="champion", max_drop=0.02), "PASS"),
        (Gate("log_loss", vs="champion", max_drop=0.005), "FAIL"),
        (Gate("accuracy", vs="champion", min_gain=0.01), "PASS"),
    ],
)
def test_compared_with_the_champion(gate: Gate, status: str):
    champion = {"auc": 0.73, "log_loss": 0.49, "brier": 0.15, "accuracy": 0.75}
    found = evaluation(metrics={"champion": champion}, champion_version="3")
    judged = verdict(gate, found)
    assert judged.status == status
    assert judged.checks[0].bound is not None


def test_no_champion_yet_passes_and_says_so():
    judged = verdict(Gate("auc", vs="champion", max_drop=0.0), evaluation())
    assert judged.status is VerdictStatus.PASS
    assert judged.checks[0].reason == "no champion yet"


def test_champion_that_could_not_be_scored_fails():
    found = evaluation(champion_version="3", unevaluated={"champion": "it takes 'wind'"})
    reason = only_failed(Gate("auc", vs="champion", max_drop=0.5), found)
    assert reason == "the champion could not be scored: it takes 'wind'"


NAN = dict.fromkeys(GOOD, math.nan)


@pytest.mark.parametrize(
    "gate",
    [
        Gate("log_loss", min=-9.0),
        Gate("log_loss", max=9.0),
        Gate("log_loss", vs="baseline", min_gain=-9.0),
        Gate("log_loss", vs="champion", max_drop=9.0),
    ],
)
def test_nan_of_the_challenger_passes_nothing(gate: Gate):
    found = evaluation(NAN, metrics={"champion": GOOD})
    assert not verdict(gate, found).checks[0].passed


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_nan_of_the_champion_is_not_beaten(metric: str):
    found = evaluation(metrics={"champion": NAN})
    assert not verdict(Gate(metric, vs="champion", max_drop=9.0), found).checks[0].passed


@pytest.mark.parametrize("auc", [0.999, 1.0, math.nan])
def test_too_good_or_undefined_auc_fails_whatever_the_gates(auc: float):
    judged = verdict(Gate("log_loss", max=0.9), evaluation({"auc": auc}))
    assert judged.status is VerdictStatus.FAIL
    assert [check.gate for check in judged.checks if not check.passed] == ["auc not too good"]


def test_of_few_rows_a_perfect_model_is_told_of_and_passes():
    judged = verdict(Gate("log_loss", max=0.9), evaluation({"auc": 1.0}, rows=99))
    assert judged.status is VerdictStatus.PASS
    [said] = [check.reason for check in judged.checks if check.gate == "auc not too good"]
    assert said.startswith("WARNING: 1.0000, asked < 0.999: of 99 test rows that says little")
    undefined = verdict(Gate("log_loss", max=0.9), evaluation({"auc": math.nan}, rows=99))
    assert undefined.status is VerdictStatus.FAIL


def test_without_gates_those_of_the_problem_type_judge():
    judged = judge("m", [], evaluation())
    assert judged.status is VerdictStatus.PASS
    assert [check.gate for check in judged.checks] == [
        "auc vs baseline min_gain",
        "auc vs champion",
        "auc not too good",
    ]
    assert judge("m", [], evaluation({"auc": 0.51})).status is VerdictStatus.FAIL


def test_a_gate_of_another_problem_type_is_refused():
    with pytest.raises(ConfigError, match=r"A binary has no metric 'rmse'(.|\n)*Metrics: auc, log_loss"):
        verdict(Gate("rmse", max=3.0), evaluation())


def sliced(**carriers: tuple[int, float, float]) -> Evaluation:
    return evaluation(
        slices={
            "carrier": {
                name: {"n": float(n), "expected_n": expected, "log_loss": loss}
                for name, (n, expected, loss) in carriers.items()
            }
        }
    )


def test_every_large_slice_is_judged_and_small_ones_are_not():
    judged = verdict(BY_CARRIER, sliced(AA=(600, 610.0, 0.5), UA=(500, 480.0, 0.95), OO=(3, 2.5, 9.0)))
    assert {check.slice: check.passed for check in judged.checks if check.slice} == {
        "carrier=AA": True,
        "carrier=UA": False,
    }
    assert judged.status is VerdictStatus.FAIL


def test_vanished_slice_fails():
    reason = only_failed(BY_CARRIER, sliced(AA=(600, 610.0, 0.5), UA=(0, 800.0, math.nan)))
    assert reason.startswith("vanished: 0 test rows")


def test_slice_that_is_as_good_as_gone_fails_too():
    assert only_failed(BY_CARRIER, sliced(AA=(600, 610.0, 0.5), UA=(7, 800.0, 0.4))).startswith("vanished: 7")


def test_slice_that_was_always_tiny_may_be_missing():
    assert verdict(BY_CARRIER, sliced(AA=(600, 610.0, 0.5), OO=(0, 1.4, math.nan))).status is VerdictStatus.PASS


def test_nan_in_a_slice_fails():
    assert only_failed(BY_CARRIER, sliced(AA=(600, 610.0, math.nan))).startswith("nan")


@pytest.mark.parametrize("found", [sliced(OO=(3, 2.5, 0.1)), evaluation()])
def test_gate_that_judges_no_slice_at_all_fails(found: Evaluation):
    assert "nothing was judged" in only_failed(BY_CARRIER, found)


def test_same_inputs_same_verdict_and_other_inputs_another_hash():
    found = sliced(AA=(600, 610.0, math.nan))
    gates = [asdict(BY_CARRIER)]
    again = Evaluation.from_json(found.to_json())
    assert judge("m", gates, found).to_json() == judge("m", gates, again).to_json()
    hashes = {
        judge("m", gates, found).inputs_hash,
        judge("other", gates, found).inputs_hash,
        judge("m", [], found).inputs_hash,
        judge("m", gates, sliced(AA=(601, 610.0, math.nan))).inputs_hash,
    }
    assert len(hashes) == 4


def test_gates_as_written_in_json():
    gate = {"metric": "log_loss", "max": 0.9, "by": {"column": "carrier", "min_n": 500}}
    assert judge("m", [gate], sliced(AA=(600, 610.0, 0.5))).status is VerdictStatus.PASS


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"metric": "auc", "minn": 0.5}, "unknown key 'minn'. Did you mean 'min'?"),
        ({"metric": "aux", "min": 0.5}, "Did you mean 'auc'?"),
        ({"metric": "auc", "min": 0.5, "by": "carrier"}, "is not a slice"),
    ],
)
def test_wrong_gate_is_explained(gate: dict[str, Any], says: str):
    with pytest.raises(ConfigError) as caught:
        judge("m", [gate], evaluation())
    assert says in str(caught.value)
