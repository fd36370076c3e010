"""Labels that are classes or numbers, by slice against the days before, on days that are made up."""

from __future__ import annotations

import functools
import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data.checks import run_checks
from airflow_mlops.engine.data.profiles import merge, profile_table
from airflow_mlops.exceptions import ConfigError, DataError
from tests.checks_fixtures import blocking

START = date(2024, 3, 4)
COUNTRIES = {"US": 3_000, "CA": 1_000, "FR": 400}
REASONS = ("damaged", "late", "other", "size")
PROBLEM = {"code": "multiclass"}
SHARES = np.array([0.1, 0.3, 0.2, 0.4])


def rows_of(number: int) -> pa.Table:
    """A day whose mix of reasons swings; and skewed refunds, of another level in each country, dear on some days."""
    random = np.random.default_rng(number)
    country = np.repeat(list(COUNTRIES), [random.poisson(usual) for usual in COUNTRIES.values()])
    shares = SHARES * np.exp(random.normal(0, 0.15, 4))
    level = np.select([country == "US", country == "CA"], [20.0, 30.0], 60.0) * np.exp(random.normal(0, 0.3))
    refund = level * random.lognormal(0, 0.8, len(country))
    return pa.table(
        {
            "country": country,
            "reason": (reason := random.choice(REASONS, len(country), p=shares / shares.sum())),
            "code": np.searchsorted(REASONS, reason) * 10,
            "refund": np.where(random.random(len(country)) < 0.1, np.nan, refund),
        }
    )


def profiled(rows: pa.Table, number: int, label: str) -> Profile:
    key = str(START + timedelta(days=number))
    how = {"slices": ["country"], "label": label, "problem": PROBLEM.get(label, "")}
    return profile_table(rows, dataset="d", key=key, revision="r", **how)


@functools.cache
def normal(number: int, label: str) -> Profile:
    return profiled(rows_of(number), number, label)


def found(today: Profile, label: str, days: int = 56) -> list:
    """What the checks of the label say that is not as usual."""
    history = [normal(number, label) for number in range(56 - days, 56)]
    outcomes = run_checks(today, history, slices=["country"], label=label, problem=PROBLEM.get(label, ""))
    return [one for one in outcomes if one.expectation.startswith("label_") and not one.success]


def with_label(label: str, where: str, change) -> Profile:
    """A day on which the label of one country is something else."""
    rows = rows_of(57)
    mask = np.array(rows["country"]) == where if where else np.ones(rows.num_rows, bool)
    values = np.array(rows[label].to_pylist(), dtype=object)
    values[mask] = [change(one) for one in values[mask]]
    column = pa.array(values.tolist(), rows[label].type)
    return profiled(rows.set_column(rows.schema.get_field_index(label), label, column), 57, label)


@pytest.mark.parametrize("label", ["reason", "refund", "code"])
def test_normal_days_are_silent(label):
    for number in range(57, 97):
        assert not found(normal(number, label), label), number


def test_a_class_that_is_lost_in_a_small_slice_blocks_and_is_named():
    today = with_label("reason", "FR", lambda one: "other" if one == "size" else one)
    [refused] = blocking(found(today, "reason"))
    assert refused.expectation == "label_share_as_usual"
    assert "slice 'FR' of 'country': class 'size' 0.00%, usual " in refused.note


def test_a_new_class_is_counted_and_not_named():
    today = with_label("reason", "CA", lambda one: "SECRET" if one == "late" else one)
    outcomes = found(today, "reason")
    assert any("new classes" in one.note for one in outcomes)
    assert "SECRET" not in json.dumps([one.to_json() for one in outcomes])


def test_whole_numbers_that_are_classes_are_compared_by_their_shares():
    """10 and 30 become 20: the mean stays, and a class is gone."""
    today = with_label("code", "FR", lambda one: 20 if one in (10, 30) else one)
    refused = blocking(found(today, "code"))
    assert {one.expectation for one in refused} == {"label_share_as_usual"}
    assert any("class '30'" in one.note and "'FR'" in one.note for one in refused)
    days = [normal(number, "code") for number in range(56)]
    said = run_checks(today, days, slices=["country"], label="code", problem="multiclass")
    assert not [one for one in said if one.column == "code" and not one.expectation.startswith("label_")]


def test_days_that_were_profiled_as_numbers_are_compared_by_their_mean():
    key = str(START)
    days = [
        profile_table(rows_of(number), dataset="d", key=key, revision="r", slices=["country"], label="code")
        for number in range(20)
    ]
    said = run_checks(normal(57, "code"), days, slices=["country"], label="code", problem="multiclass")
    assert {one.expectation for one in said if one.expectation.startswith("label_")} == {
        "label_mean_as_usual",
        "label_coverage_as_usual",
    }


def test_all_labels_of_one_class_block():
    notes = " ".join(one.note for one in blocking(found(with_label("reason", "", lambda one: "late"), "reason")))
    assert "all rows: class 'size' 0.00%" in notes


@pytest.mark.parametrize("change", [lambda one: 0.0, lambda one: one * 100], ids=["zeros", "cents"])
def test_numbers_of_one_slice_that_are_filled_in_or_of_another_unit_block(change):
    refused = blocking(found(with_label("refund", "FR", change), "refund"))
    assert {one.expectation for one in refused} == {"label_mean_as_usual"}
    [told] = [one.note for one in refused if one.note.startswith("slice")]
    assert told.startswith("slice 'FR' of 'country': mean ")


def test_a_day_on_which_all_numbers_double_is_not_an_alarm_a_slice():
    outcomes = found(with_label("refund", "", lambda one: one * 2.5), "refund")
    assert not [one for one in outcomes if "slice" in one.note]


def test_a_day_of_zeros_is_no_day_of_truths():
    """They would pass as truth values; the days before say that they are numbers."""
    refused = blocking(found(with_label("refund", "", lambda _: 0.0), "refund"))
    assert refused[0].note.startswith("all rows: mean 0, usual ")


def test_means_are_judged_from_fourteen_days_on():
    wrong = with_label("refund", "FR", lambda one: one * 100)
    assert not found(wrong, "refund", days=13)
    assert blocking(found(wrong, "refund", days=56))


@pytest.mark.parametrize("label", ["reason", "refund"])
def test_merged_profiles_count_as_one_table(label):
    both = merge([normal(1, label), normal(2, label)]).slices["country"]
    whole = profiled(pa.concat_tables([rows_of(1), rows_of(2)]), 1, label).slices["country"]
    for name, one in both.items():
        assert (one.rows, one.labelled, one.classes) == (whole[name].rows, whole[name].labelled, whole[name].classes)
        assert (one.mean or 0) == pytest.approx(whole[name].mean or 0)
        assert one.m2 == pytest.approx(whole[name].m2)


def test_profiles_that_were_sealed_before_are_read_and_compared_again_once_there_are_new_ones():
    def old(profile: Profile) -> Profile:
        told = json.loads(profile.to_json())
        for one in told["slices"]["country"].values():
            for name in ("classes", "mean", "m2"):
                del one[name]
        return Profile.from_json(json.dumps(told))

    days = [old(normal(number, "refund")) for number in range(56)]
    outcomes = run_checks(normal(57, "refund"), days, slices=["country"], label="refund")
    said = [one for one in outcomes if one.note == "no day before has counted such labels by slice"]
    assert [(one.success, one.severity) for one in said] == [(True, "info")]
    assert [one for one in outcomes if one.expectation == "label_coverage_as_usual"]


def test_free_text_and_lists_are_no_labels():
    texts = pa.table({"country": ["US"] * 1001, "reason": [str(n) for n in range(1001)]})
    batches = pa.concat_tables([texts, texts])
    with pytest.raises(DataError, match="more than 1,000 different values"):
        profiled(batches, 1, "reason")
    with pytest.raises(ConfigError, match="neither boolean, nor a number, nor a text"):
        profiled(pa.table({"country": ["US"], "reason": [[1]]}), 1, "reason")
