"""Problem types: what each takes as a label, refuses, and says of predictions. A new one is tested by being there."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.contracts import Evaluation, ModelManifest, Signature, SliceProfile, VerdictStatus
from airflow_mlops.engine.data.leaks import check_leaks
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.engine.evaluation.evaluate import by_class
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.parts import Gate
from airflow_mlops.problems import METRICS, PROBLEMS, Problem, as_label, check_label, problem_named, problem_of

BINARY, MULTICLASS, REGRESSION, RANKING = (PROBLEMS[name] for name in ("binary", "multiclass", "regression", "ranking"))
RNG = np.random.default_rng(0)
N = 2000
LABELS: dict[str, pa.Array] = {
    "binary": pa.array(RNG.random(N) < 0.3),
    "multiclass": pa.array(RNG.choice(["a", "b", "c"], N, p=[0.5, 0.3, 0.2])),
    "regression": pa.array(RNG.normal(20, 5, N)),
    "ranking": pa.array(RNG.integers(0, 4, N)),
}
EVERY = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def said(problem: Problem) -> str:
    return problem.name if problem is RANKING else ""


def label_of(problem: Problem, values: Any) -> pa.ChunkedArray:
    return as_label(pa.table({"y": values}), "y", "here", said(problem))["y"]


def profiled(values: pa.Array) -> Any:
    return profile_table(pa.table({"y": values}), dataset="ends", key="2024-03-01", revision="r").columns["y"]


def tallies(problem: Problem, **splits: Any) -> tuple[dict[str, Any], dict[str, str]]:
    found = {}
    for name, values in splits.items():
        found[name] = problem.tally()
        found[name].add(as_label(pa.table({"y": values}), "y", "here", problem.name)["y"])
    return found, dict.fromkeys(found, "somewhen")


# --- every type -------------------------------------------------------------------------------------------


@EVERY
def test_a_type_is_whole(problem: Problem):
    """From a column to a verdict: what each step returns fits the next."""
    values = LABELS[problem.name]
    check_label(profiled(values), "y", "here", said(problem))
    labels = label_of(problem, values)
    assert str(labels.type) == problem.label_type
    assert problem_of(labels.type, said(problem)) is problem
    counted, wheres = tallies(problem, train=values[:1000], validation=values[1000:1500], test=values[1500:])
    problem.check_splits(counted, wheres, "y")
    assert set(counted["train"].fields()) <= {"positives", "labels"}
    classes = problem.classes(counted)
    targets = problem.targets(labels, classes)
    assert targets.dtype in (np.float32, np.int64)
    usual = problem.baseline(targets, classes)
    baseline = np.broadcast_to(usual, (N, *usual.shape)).astype(np.float32)
    assert problem.mistake(baseline) == ""
    assert baseline.shape == ((N,) if problem.width(classes) == 1 else (N, problem.width(classes)))
    groups = np.arange(N) // 10
    scores = problem.score(targets, baseline, groups=groups)
    assert set(scores) == set(problem.metrics) <= set(METRICS)
    assert all(math.isfinite(value) for value in scores.values())
    assert all(math.isnan(value) for value in problem.score(targets[:0], baseline[:0], groups=groups[:0]).values())
    spoilt = baseline.copy()
    spoilt.flat[0] = math.nan
    assert problem.mistake(spoilt)
    assert all(math.isnan(value) for value in problem.score(targets, spoilt, groups=groups).values())
    evaluation = Evaluation(
        snapshot_id="s", split="test", rows=N, problem=problem.name,
        metrics={"challenger": scores, "baseline": scores},
    )  # fmt: skip
    assert judge("m", [], evaluation).status is VerdictStatus.FAIL, "no better than the baseline"
    for gate in problem.gates:
        assert Gate(**gate).metric in problem.metrics
    assert problem.too_good[0] in problem.metrics


@EVERY
def test_a_perfect_model_is_too_good(problem: Problem):
    values = LABELS[problem.name]
    classes = problem.classes(tallies(problem, train=values)[0])
    targets = problem.targets(as_label(pa.table({"y": values}), "y", "here", problem.name)["y"], classes)
    perfect = np.eye(len(classes))[targets] if classes else targets
    scores = problem.score(targets, perfect, groups=np.arange(N) // 10)
    evaluation = Evaluation(snapshot_id="s", split="test", rows=N, problem=problem.name, metrics={"challenger": scores})
    metric = problem.too_good[0]
    bound = {"max": 9.0} if problem.metrics[metric].less_is_better else {"min": 0.0}
    failed = [check for check in judge("m", [{"metric": metric, **bound}], evaluation).checks if not check.passed]
    assert [check.gate for check in failed] == [f"{metric} not too good"]


@EVERY
def test_weights_count_rows(problem: Problem):
    """A row of weight two is two rows; one of weight nothing is none."""
    values = LABELS[problem.name].take(pa.array(np.arange(60)))
    classes = problem.classes(tallies(problem, train=values)[0])
    targets = problem.targets(as_label(pa.table({"y": values}), "y", "here", problem.name)["y"], classes)
    predicted = RNG.random((60, len(classes))) if classes else RNG.random(60)
    predicted = predicted / predicted.sum(axis=1, keepdims=True) if classes else predicted
    groups = np.arange(60) // 6
    weights = (groups % 3).astype(np.float32)
    doubled = np.r_[np.flatnonzero(weights == 1), np.flatnonzero(weights == 2), np.flatnonzero(weights == 2)]
    apart = np.r_[groups[weights == 1], groups[weights == 2], groups[weights == 2] + 100]
    one = problem.score(targets, predicted, weights=weights, groups=groups)
    other = problem.score(targets[doubled], predicted[doubled], groups=apart)
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


@EVERY
def test_a_copy_of_the_label_is_a_leak_and_noise_is_none(problem: Problem):
    labels = as_label(pa.table({"y": LABELS[problem.name]}), "y", "here", problem.name)
    copy = labels["y"]
    table = labels.append_column("copy", copy).append_column("noise", pa.array(RNG.random(N)))
    table = table.append_column("many", pa.array(RNG.choice(list("abcdefgh"), N)))
    check_leaks(table, ["noise", "many"], "y", problem)
    with pytest.raises(DataError, match=r"A leak: copy alone tells the label 'y'"):
        check_leaks(table, ["noise", "copy", "many"], "y", problem)


# --- what a label may be ----------------------------------------------------------------------------------

FOUND = [
    (pa.array([True, False, None]), "binary"),
    (pa.array([1, 0, None]), "binary"),
    (pa.array([1.0, 0.0, None]), "binary"),
    (pa.array([1, 0, 1], pa.int8()), "binary"),
    (pa.nulls(3), "binary"),
    (pa.array(["yes", "no", None]), "multiclass"),
    (pa.array(["a", "b", None]).dictionary_encode(), "multiclass"),
    (pa.array([0.5, 0.0, None]), "regression"),
    (pa.array([-1.5, 7.0, math.nan]), "regression"),
]


@pytest.mark.parametrize(("values", "name"), FOUND, ids=str)
def test_the_type_follows_from_the_label(values: pa.Array, name: str):
    check_label(profiled(values), "y", "here")
    made = as_label(pa.table({"y": values}), "y", "here")["y"]
    assert problem_of(made.type).name == name
    if name == "binary":
        assert made.to_pylist() == [None if value is None else bool(value) for value in values.to_pylist()]


@pytest.mark.parametrize("values", [pa.array([1, 2, 0]), pa.array([-1, 1, 1], pa.int32())], ids=str)
def test_of_other_whole_numbers_somebody_says_what_they_are(values: pa.Array):
    for refuse in (
        lambda: check_label(profiled(values), "y", "x"),
        lambda: as_label(pa.table({"y": values}), "y", "x"),
    ):
        with pytest.raises(
            DataError, match=r"whole numbers: are they classes, or amounts(.|\n)*problem=\"regression\""
        ):
            refuse()
    assert as_label(pa.table({"y": values}), "y", "x", "multiclass")["y"].to_pylist() == [str(v) for v in values]
    assert as_label(pa.table({"y": values}), "y", "x", "regression")["y"].to_pylist() == values.to_pylist()
    for problem in ("multiclass", "regression"):
        check_label(profiled(values), "y", "x", problem)


@pytest.mark.parametrize(
    ("values", "problem", "words"),
    [
        (pa.array(["yes", "no"]), "binary", "of type string, and not true or false"),
        (pa.array([0.5, 1.0]), "binary", "of type double, and not true or false"),
        (pa.array([0.5, 1.0]), "multiclass", "of type double, and names no class"),
        (pa.array(["1.5", "2"]), "regression", "of type string, and no number"),
        (pa.array(["1.5", "2"]), "ranking", "of type string, and says no relevance"),
        (pa.array([datetime(2024, 1, 1)]), "", "of which nothing can be learned"),  # noqa: DTZ001
        (pa.array([1.0, math.inf]), "regression", "is infinite in 1"),
    ],
    ids=str,
)
def test_what_is_no_label_is_refused_with_the_first_partition(values: pa.Array, problem: str, words: str):
    for refuse in (
        lambda: check_label(profiled(values), "y", "x", problem),
        lambda: as_label(pa.table({"y": values}), "y", "x", problem),
    ):
        with pytest.raises(DataError, match=words) as refused:
            refuse()
        assert refused.value.hint


def test_a_label_that_is_not_there_is_told_elsewhere():
    check_label(None, "early", "here")


def test_too_many_classes_are_none():
    with pytest.raises(DataError, match=r"different values: they are no classes"):
        check_label(profiled(pa.array([f"customer {n}" for n in range(5000)])), "y", "here")


def test_no_such_type():
    with pytest.raises(ConfigError, match=r"no problem type 'regresion'. Did you mean 'regression'"):
        problem_named("regresion")


def test_a_relevance_is_not_below_nothing():
    with pytest.raises(DataError, match="below 0 in 1 rows"):
        as_label(pa.table({"y": [1, -1]}), "y", "x", "ranking")


# --- splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "splits", "words"),
    [
        (BINARY, {"train": [True, False], "test": [False, False]}, "The test split has only one class: 0 of 2 rows"),
        (MULTICLASS, {"train": ["a", "a"], "test": ["a"]}, "The train split has only one class: 'a'"),
        (MULTICLASS, {"train": ["a", "a", "b"], "test": ["a"]}, "1 of 2 classes have a single row .* 'b'"),
        (MULTICLASS, {"train": ["a", "a", "b", "b"], "validation": ["c"]}, "validation split has classes .* 'c'"),
        (REGRESSION, {"train": [1.0, 2.0], "test": [3.0, 3.0]}, "The test split has only one value: each label is 3"),
    ],
    ids=["truths", "one class", "a rare class", "an unseen class", "a constant"],
)
def test_splits_of_which_nothing_can_be_learned(problem: Problem, splits: dict[str, list[Any]], words: str):
    counted, wheres = tallies(problem, **splits)
    with pytest.raises(DataError, match=words):
        problem.check_splits(counted, wheres, "y")


def test_what_float32_cannot_hold_is_refused_and_what_it_can_is_not():
    huge = [1e300, -1e300, 1.7e308, 1.7e308]
    with pytest.raises(DataError, match="The label 'y' has a number that is too large"):
        check_label(profiled(pa.array(huge)), "y", "here")
    counted = REGRESSION.tally()
    for part in (huge[:1], huge[1:]):
        counted.add(pa.chunked_array([pa.array(part)]))
    with pytest.raises(DataError, match="The label 'y' of the train split has a number that is too large") as refused:
        REGRESSION.check_splits({"train": counted}, {"train": "here"}, "y")
    assert "1e+300" not in str(refused.value)
    one = SliceProfile(rows=1, labelled=1, mean=1e300)
    assert REGRESSION.join_slices(one, SliceProfile(rows=1, labelled=1, mean=-1e300))["m2"] == math.inf
    held, wheres = tallies(REGRESSION, train=[3.4e38, -3.4e38, 1.0])
    REGRESSION.check_splits(held, wheres, "y")
    check_label(profiled(pa.array([3.4e38, 1.0])), "y", "here")


def test_numbers_that_come_in_parts_have_the_moments_of_the_whole():
    values = RNG.normal(1e6, 3.0, 999)
    whole = REGRESSION.tally()
    for start in (0, 10, 500):
        whole.add(pa.chunked_array([pa.array(values[start : {0: 10, 10: 500, 500: 999}[start]])]))
    told = whole.fields()["labels"]
    assert told["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert told["std"] == pytest.approx(values.std(), rel=1e-4)
    assert (told["min"], told["max"]) == pytest.approx((values.min(), values.max()), rel=1e-5)


# --- days -------------------------------------------------------------------------------------------------


def days_of(make: Any, days: int = 20, n: int = 300) -> pa.Table:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    times = [start + timedelta(days=day, seconds=i) for day in range(days) for i in range(n)]
    labels = [value for day in range(days) for value in make(day, n)]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "y": labels})


def amounts(day: int, n: int) -> list[float]:
    """A business that grows, with a weekend."""
    return (RNG.lognormal(3, 0.8, n) * (1 + day / 40) * (0.7 if day % 7 > 4 else 1)).tolist()


def kinds(day: int, n: int) -> list[str]:
    return RNG.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1] if day % 7 < 5 else [0.5, 0.4, 0.1]).tolist()


def test_ordinary_days_are_believed():
    REGRESSION.check_days(days_of(amounts), "at", "y", 5.0)
    MULTICLASS.check_days(days_of(kinds), "at", "y", 5.0)


def test_a_class_may_be_missing_on_a_day_of_few_rows():
    """Of seven classes and forty rows a day, one is missing every week or so."""
    table = days_of(lambda _day, n: RNG.choice(list("abcdefg"), n).tolist(), days=150, n=40)
    MULTICLASS.check_days(table, "at", "y", 5.0)


@pytest.mark.parametrize("fill", [0.0, 1e4], ids=["nothing", "another unit"])
def test_a_day_of_numbers_that_are_filled_in_is_named(fill: float):
    table = days_of(lambda day, n: [fill] * n if day == 12 else amounts(day, n))
    with pytest.raises(DataError, match=r"The labels of 1 days are not believable(.|\n)*2024-01-13 \(mean "):
        REGRESSION.check_days(table, "at", "y", 5.0)


def test_a_day_without_a_class_is_named():
    table = days_of(lambda day, n: ["a"] * n if day == 3 else kinds(day, n))
    with pytest.raises(DataError, match=r"The rate of class 'a' of 1 days is not believable(.|\n)*2024-01-04"):
        MULTICLASS.check_days(table, "at", "y", 5.0)


# --- scores -----------------------------------------------------------------------------------------------


def test_known_values_of_a_binary():
    labels = np.array([0, 0, 1, 1])
    found = BINARY.score(labels, np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32))
    assert found == pytest.approx({"auc": 0.75, "log_loss": 0.472288, "brier": 0.158125, "accuracy": 0.75}, abs=1e-5)
    assert BINARY.score(np.array([0, 1, 1, 0]), np.full(4, 0.3))["auc"] == 0.5
    of_one = BINARY.score(np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert math.isnan(of_one["auc"])
    assert of_one["log_loss"] == pytest.approx(0.228393, abs=1e-5)
    assert math.isfinite(BINARY.score(np.array([0, 1]), np.array([1.0, 0.0]))["log_loss"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_one_bad_probability_spoils_all(bad: float):
    found = BINARY.score(np.array([0, 1, 1]), np.array([0.2, bad, 0.9]))
    assert all(math.isnan(value) for value in found.values())


def test_known_values_of_classes():
    chances = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.65, 0.25, 0.1]])
    found = MULTICLASS.score(np.array([0, 1, 2, 1]), chances)
    assert found["accuracy"] == 0.75
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.4, 0.25]).mean())
    assert found["f1"] == pytest.approx(np.mean([2 / 3, 2 / 3, 1.0]))
    assert found["auc"] == pytest.approx(np.mean([1.0, 0.75, 1.0]))
    assert found["calibration_error"] == pytest.approx((0.3 + 0.2 + 0.6 + 0.65) / 4)
    assert math.isnan(MULTICLASS.score(np.array([0, 0]), chances[:2])["auc"]), "of one class"
    for wrong in (chances * 2, chances - 0.3, chances[:, 0]):
        assert MULTICLASS.mistake(wrong)


def test_known_values_of_numbers():
    found = REGRESSION.score(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))
    assert found == pytest.approx({"rmse": math.sqrt(3), "mae": 1.0, "r2": 1 - 9 / 2, "bias": 1.0})
    assert math.isnan(REGRESSION.score(np.ones(3), np.ones(3))["r2"])


def test_known_values_of_an_order():
    groups = np.array(["x", "y", "x", "y", "z"])
    relevant = np.array([1.0, 0.0, 0.0, 3.0, 1.0])
    assert RANKING.score(relevant, np.array([2.0, 1.0, 1.0, 5.0, 0.0]), groups=groups)["ndcg"] == 1.0
    turned = RANKING.score(relevant, np.array([1.0, 5.0, 2.0, 1.0, 0.0]), groups=groups)
    assert turned["ndcg"] == pytest.approx(1 / math.log2(3))
    assert math.isnan(RANKING.score(np.zeros(4), np.arange(4.0), groups=np.zeros(4))["ndcg"]), "nothing is relevant"
    assert math.isnan(RANKING.score(relevant, relevant)["ndcg"]), "without groups there is no order"


# --- leaks ------------------------------------------------------------------------------------------------


def test_a_feature_that_tells_one_class_of_three_may_be_honest():
    """As the petals of irises do."""
    kinds = pa.array(RNG.choice(["setosa", "versicolor", "virginica"], N))
    length = [RNG.normal(1, 0.1) if kind == "setosa" else RNG.normal(5, 0.5) for kind in kinds.to_pylist()]
    codes = [{"setosa": 3, "versicolor": 1, "virginica": 2}[kind] for kind in kinds.to_pylist()]
    table = pa.table({"y": kinds, "length": length, "code": codes})
    check_leaks(table, ["length"], "y", MULTICLASS)
    with pytest.raises(DataError, match=r"A leak: code alone(.|\n)*AUC of every class 1"):
        check_leaks(table, ["length", "code"], "y", MULTICLASS)


def test_a_feature_that_follows_a_number_closely_may_be_honest():
    fare = RNG.lognormal(3, 0.5, N)
    table = pa.table({"y": fare, "km": fare * RNG.normal(1, 0.1, N), "cents": np.round(fare * 100), "null": [None] * N})
    check_leaks(table, ["km", "null"], "y", REGRESSION)
    with pytest.raises(DataError, match=r"A leak: cents alone"):
        check_leaks(table, ["km", "cents"], "y", REGRESSION)


def test_parsing_a_dag_file_loads_nothing_for_it():
    code = (
        "import sys, airflow_mlops.problems\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- models of other classes ------------------------------------------------------------------------------


def test_a_champion_of_other_classes_is_held_against_the_same_names(tmp_path):
    """A class came and another went: places are not names."""
    chances = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]], dtype=np.float32)
    assert by_class(tmp_path, chances, ("a", "b", "c")) is chances, "one that is not registered yet is of the snapshot"
    with pytest.raises(DataError, match="other classes than the 2 of the snapshot"):
        by_class(tmp_path, chances, ("a", "b"))
    manifest = ModelManifest(
        model="m", snapshot_id="s", spec_hash="h", seed=1, feature_service="f", code_version="x", code_dirty=False,
        signature=Signature(inputs={}, outputs={}), hardware="x", versions={}, triggered_by="t",
        classes=("a", "b", "old"),
    )  # fmt: skip
    (tmp_path / MANIFEST_FILE).parent.mkdir()
    (tmp_path / MANIFEST_FILE).write_text(manifest.to_json())
    aligned = by_class(tmp_path, chances, ("a", "b", "new"))
    np.testing.assert_allclose(aligned, [[0.4, 0.6, 0.0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    assert MULTICLASS.mistake(aligned) == ""
    np.testing.assert_allclose(by_class(tmp_path, chances, ("b", "a", "old"))[0], [0.3, 0.2, 0.5])
