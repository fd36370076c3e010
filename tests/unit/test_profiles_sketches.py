"""The two sketches: what they promise about errors, merging and repeatability."""

import subprocess
import sys

import datasketches
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.engine.data.profiles.hashing import hash_numbers, hash_strings
from airflow_mlops.engine.data.profiles.sketches import DistinctSketch, QuantileSketch
from tests.thorough import examples

RANK_ERROR = datasketches.kll_doubles_sketch.get_normalized_rank_error(QuantileSketch.K, False)

# Written down on purpose: stored profiles could no longer be merged if these changed.
NUMBERS = [6238072747940578789, 13029008266876403067]
HALF = [306524380890059637]
TEXTS = [5228238594498786521, 14210913074616351997, 1760245841805064774]

floats = st.builds(
    lambda seed, n, digits: np.random.default_rng(seed).normal(size=n).round(digits),
    st.integers(0, 10**6),
    st.integers(0, 3000),
    st.integers(0, 9),
)


def quantile_sketch(*batches):
    sketch = QuantileSketch()
    for batch in batches:
        sketch.add(np.sort(np.asarray(batch, dtype=float)))
    return sketch


def distinct_sketch(values):
    sketch = DistinctSketch()
    sketch.add(hash_numbers(np.asarray(values)))
    return sketch


def rank_error(sketch, values):
    """Return the largest error of the ranks of the sketch's quantiles."""
    asked = np.linspace(0.01, 0.99, 99)
    kept, below = sketch.weighted()
    found = kept[np.searchsorted(below, asked * below[-1])]
    ordered = np.sort(values)
    low, high = (np.searchsorted(ordered, found, side) / len(values) for side in ("left", "right"))
    return np.maximum(np.maximum(low - asked, asked - high), 0).max()


@pytest.mark.parametrize("shape", ["normal", "sorted", "few", "lognormal", "times"])
@pytest.mark.parametrize("batches", [1, 7, 365])
def test_quantiles_are_within_the_error_that_datasketches_states_for_kll(shape, batches):
    random = np.random.default_rng(3)
    values = {
        "normal": random.normal(size=100_000),
        "sorted": np.arange(100_000.0),
        "few": random.integers(0, 7, 100_000).astype(float),
        "lognormal": random.lognormal(0, 4, 100_000),
        "times": 1.36e15 + random.integers(0, 86_400_000_000, 100_000),
    }[shape]
    parts = np.array_split(values, batches)

    assert rank_error(quantile_sketch(*parts), values) < RANK_ERROR
    assert rank_error(QuantileSketch.merged([quantile_sketch(part) for part in parts]), values) < RANK_ERROR


def test_a_chain_of_merges_keeps_the_error_too():
    values = np.random.default_rng(5).normal(size=60_000)
    sketch = quantile_sketch()
    for part in np.array_split(values, 200):
        sketch = QuantileSketch.merged([sketch, quantile_sketch(part)])

    assert rank_error(sketch, values) < RANK_ERROR


def test_a_sketch_stays_small_however_many_values_it_has_seen():
    sketch = quantile_sketch(*np.random.default_rng(1).normal(size=(50, 20_000)))

    assert sum(map(len, sketch.levels)) < 4 * QuantileSketch.K


@pytest.mark.property
@settings(max_examples=examples(50), deadline=None)
@given(floats, floats)
def test_no_weight_is_lost_and_the_order_of_a_merge_does_not_matter(left, right):
    ab = QuantileSketch.merged([quantile_sketch(left), quantile_sketch(right)])
    ba = QuantileSketch.merged([quantile_sketch(right), quantile_sketch(left)])

    _, below = ab.weighted()
    assert (below[-1] if len(below) else 0) == len(left) + len(right)
    assert ab.pack() == ba.pack() == QuantileSketch.unpack(ab.pack()).pack()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=QuantileSketch.K))
def test_up_to_k_values_are_kept_as_they_are(values):
    kept, below = quantile_sketch(values).weighted()

    assert kept.tolist() == sorted(values)
    assert below.tolist() == list(range(1, len(values) + 1))


@pytest.mark.property
@settings(max_examples=examples(50), deadline=None)
@given(st.integers(0, 1500), st.integers(1, 2**52), st.integers(0, 1500), st.integers(0, 1500))
def test_merging_distinct_sketches_is_the_same_as_seeing_all_values(n, step, first, second):
    every = np.arange(n) * step - 2**62
    parts = [every[:first], every[min(first, second) :], every]

    merged = DistinctSketch.merged([distinct_sketch(part) for part in parts])

    assert merged.pack() == distinct_sketch(every).pack()
    if len(every) < DistinctSketch.K:
        assert merged.estimate() == len(every)


def test_distinct_counts_have_the_stated_standard_error():
    estimates = [distinct_sketch(np.arange(n * 10**7, n * 10**7 + 20_000)).estimate() for n in range(100)]
    errors = np.array(estimates) / 20_000 - 1

    assert np.sqrt(np.mean(errors**2)) == pytest.approx(1 / np.sqrt(DistinctSketch.K - 2), rel=0.25)
    assert abs(errors.mean()) < 0.015


def test_neighbours_beyond_double_precision_are_told_apart():
    assert distinct_sketch(np.arange(2**60, 2**60 + 300)).estimate() == 300


def test_hashes_are_the_same_in_every_process_and_version():
    assert hash_numbers(np.array([1, -1])).tolist() == NUMBERS
    assert hash_numbers(np.array([0.5])).tolist() == HALF
    assert hash_numbers(np.array([0.0])).tolist() == hash_numbers(np.array([-0.0])).tolist()
    assert hash_strings(pa.array(["JFK", "∅", ""])).tolist() == TEXTS
    program = (
        "import pyarrow as pa; from airflow_mlops.engine.data.profiles.hashing import hash_strings;"
        "print(hash_strings(pa.array(['JFK', '∅', ''])).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(TEXTS)
