"""Golden inputs: enough to tell one model from another, and nobody's row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.engine.training.golden import ROWS, SHARED_BY, UNSEEN, Inputs, as_columns, golden_inputs
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import ConfigError

N = 5000
RNG = np.random.default_rng(0)


def golden(seed: int = 7, **columns: Sequence[Any] | pa.Array) -> Inputs:
    table = pa.table(
        {name: values if isinstance(values, pa.Array) else list(values) for name, values in columns.items()}
    )
    features = {name: str(table.schema.field(name).type) for name in columns}
    profile = profile_table(table, dataset="train", key="train", revision="")
    return golden_inputs(profile, read_inputs(table, features), seed)


def test_texts_are_those_that_many_rows_share_and_one_that_none_has():
    carriers = ["AA", "UA", "B6"] * 1000 + ["HA"] * (SHARED_BY - 1) + ["OO"] * (N - 3000 - SHARED_BY + 1)
    values = golden(carrier=carriers)["carrier"]
    assert len(values) == ROWS
    assert set(values) == {"AA", "UA", "B6", "OO", UNSEEN}
    assert values[-1] == UNSEEN


@pytest.mark.parametrize("of_each", [1, 20, 100], ids=["a row each", "twenty rows each", "fifty customers"])
def test_ids_never_appear(of_each: int):
    ids = [f"customer-{n // of_each}" for n in range(N)]
    drawn = RNG.integers(7_000_000_000, 8_000_000_000, N)
    numbers = pa.array(drawn[np.arange(N) // of_each], pa.int64())
    made = golden(customer=ids, account=numbers)
    assert set(made["customer"]) == {UNSEEN}
    assert not set(made["account"]) & set(numbers.to_pylist())
    assert all(isinstance(value, int) and 7_000_000_000 <= value <= 8_000_000_000 for value in made["account"])
    assert len(set(made["account"])) > 15


def test_numbers_cover_where_the_rows_are_and_are_no_rows_own():
    income = np.exp(RNG.normal(10, 1, N))
    rare = [*[0.0] * 60, *RNG.normal(1.0, 0.1, N - 60)]
    made = golden(income=income, rare=rare, flag=[n % 100 == 0 for n in range(N)])
    assert not set(made["income"]) & set(income.tolist())
    low, high = np.quantile(income, [0.05, 0.95])
    assert low * 0.99 <= min(made["income"]) < np.median(income) < max(made["income"]) <= high * 1.01
    assert len(set(made["income"])) > 15
    assert sum(value < np.median(income) for value in made["income"]) == pytest.approx(ROWS / 2, abs=3)
    assert set(made["flag"]) == {True, False}


def test_no_number_is_beyond_those_of_the_rows():
    """The index of an embedding, most often its largest one."""
    indices = pa.array([*RNG.integers(0, 368, N - 600).tolist(), *[367] * 600], pa.int64())
    below = pa.array([-value - 1 for value in indices.to_pylist()], pa.int64())
    made = golden(index=indices, below=below)
    assert max(made["index"]) <= 367
    assert min(made["below"]) >= -368
    assert len(set(made["index"])) > 15


def test_whole_numbers_of_few_values_are_values_that_rows_have():
    hours = pa.array([5, 8, 17, 22] * 1200 + [3] * 5, pa.int64())
    assert set(golden(hour=hours)["hour"]) == {5, 8, 17, 22}


def test_missing_where_it_is_missing():
    some = pa.array([None if n % 3 else float(n) for n in range(N)])
    made = golden(some=some, texts=[None if n % 3 else "a" for n in range(N)], nan=[math.nan, 1.0] * (N // 2))
    assert sum(math.isnan(value) for value in made["some"]) == 4
    assert made["texts"].count("") == 4
    assert sum(math.isnan(value) for value in made["nan"]) == 4
    never = golden(never=pa.array([None] * N, pa.float64()), no_text=pa.array([None] * N, pa.string()))
    assert all(math.isnan(value) for value in never["never"])
    assert set(never["no_text"]) == {""}


@pytest.mark.parametrize("rows", [1, 5, 39])
def test_of_few_rows_nothing_is_told(rows: int):
    made = golden(text=["only"] * rows if rows < SHARED_BY else [str(n) for n in range(rows)], number=[12345.5] * rows)
    assert set(made["text"]) == {UNSEEN}
    assert all(0 <= value <= 1 for value in made["number"])


def test_a_constant_and_infinities():
    made = golden(constant=[3.25] * N, wild=[math.inf, -math.inf, 1.0, 2.0] * (N // 4), only=[math.inf] * N)
    assert set(made["constant"]) == {3.25}
    assert all(1 <= value <= 2 for value in made["wild"])
    assert all(math.isnan(value) for value in made["only"])


def test_numbers_too_far_apart_for_a_float():
    made = golden(huge=[-1e308, 1e308] * (N // 2))
    assert all(0 <= value <= 1 for value in made["huge"])


def test_the_same_split_and_seed_give_the_same_rows():
    values = {"a": RNG.normal(size=N), "b": ["x", "y"] * (N // 2)}
    assert golden(**values) == golden(**values)
    assert golden(**values) != golden(seed=8, **values)


def test_rows_of_a_user_must_be_the_models_inputs():
    like = {"a": np.zeros(3, np.float32), "b": np.array(["x"] * 3, dtype=object)}
    columns = as_columns({"a": [1, 2], "b": ["u", "v"]}, like)
    assert columns["a"].dtype == np.float32
    assert columns["b"].tolist() == ["u", "v"]
    for wrong in (
        {"a": [1]},
        {"a": [1], "b": ["u", "v"]},
        {"a": [], "b": []},
        {"a": ["no number"], "b": ["u"]},
        {"a": [1], "b": ["u"], "c": [1]},
        None,
    ):
        with pytest.raises(ConfigError, match=r"not rows of the model's inputs(.|\n)*each of: a, b"):
            as_columns(wrong, like)
