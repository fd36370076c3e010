"""Rows, slices and label rates against the days before, on days that are made up of counts."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from airflow_mlops.contracts import ColumnProfile, Profile, SliceProfile
from airflow_mlops.engine.data.checks import comparable, run_checks
from tests.checks_fixtures import blocking, names

START = date(2013, 3, 4)
COUNTRIES = {"US": 12_000, "CA": 4_000, "FR": 2_000, "DE": 1_400, "ES": 600}
"""Usual rows a day: ES has 3 %."""


def day(number: int, rows: dict[str, int], positives: dict[str, int], labelled: dict[str, int] | None = None):
    labelled = labelled or rows
    total = sum(rows.values())
    column = ColumnProfile(type="bool", kind="boolean", count=total, nulls=total - sum(labelled.values()), mean=0.1)
    return Profile(
        dataset="orders",
        revisions={str(START + timedelta(days=number)): "r"},
        rows=total,
        columns={"bought": column},
        slices={
            "country": {
                name: SliceProfile(rows=rows[name], labelled=labelled[name], positives=positives[name]) for name in rows
            }
        },
        label="bought",
    )


def normal(number: int, **changed: int):
    """A day with a weekly cycle (half on weekends), noise, and a rate of positives that swings between days."""
    random = np.random.default_rng(number)
    weekend = (START + timedelta(days=number)).weekday() >= 5
    rows = {name: random.poisson(usual * (0.5 if weekend else 1)) for name, usual in COUNTRIES.items()} | changed
    rate = 0.1 * np.exp(random.normal(0, 0.3))
    positives = {name: random.binomial(n, min(rate * np.exp(random.normal(0, 0.05)), 1)) for name, n in rows.items()}
    return day(number, rows, positives)


HISTORY = [normal(number) for number in range(56)]


def found(today: Profile, history=HISTORY):
    return run_checks(today, history, slices=["country"], label="bought")


def slices_of(today: Profile) -> dict[str, SliceProfile]:
    return today.slices["country"]


def changed(today: Profile, **slices: SliceProfile):
    values = {name: slices.get(name, old) for name, old in slices_of(today).items()}
    return today.model_copy(update={"slices": {"country": values}, "rows": sum(v.rows for v in values.values())})


@pytest.mark.parametrize("number", range(56, 126))
def test_seventy_normal_days_with_a_weekly_cycle_are_silent(number):
    assert not names(found(normal(number), [normal(n) for n in range(number - 56, number)]))


def test_half_of_the_rows_of_a_day_block():
    today = normal(57, **{name: usual * 4 // 10 for name, usual in COUNTRIES.items()})
    assert {o.expectation for o in blocking(found(today))} == {"rows_as_usual"}  # and not each slice besides


def test_a_weekday_as_quiet_as_a_weekend_is_noticed_and_a_weekend_is_not():
    quiet = {name: usual // 2 - usual // 20 for name, usual in COUNTRIES.items()}
    assert "rows_as_usual" in names(found(normal(58, **quiet)))
    assert "rows_as_usual" not in names(found(normal(61)))


def test_a_small_slice_at_a_third_blocks_while_the_total_is_normal():
    [refused] = blocking(found(normal(57, ES=180)))
    assert (refused.expectation, refused.column, refused.bound["slice"]) == ("slice_rows_as_usual", "country", "ES")


def test_a_large_slice_that_breaks_down_raises_no_alarm_for_the_others():
    refused = [o for o in found(normal(57, US=3_000)) if o.expectation == "slice_rows_as_usual"]
    assert [o.bound["slice"] for o in refused] == ["US"]


def test_a_vanished_slice_blocks_though_it_has_no_row_to_look_at():
    today = normal(57)
    rest = {name: value for name, value in slices_of(today).items() if name != "ES"}
    [refused] = blocking(found(today.model_copy(update={"slices": {"country": rest}})))
    assert (refused.expectation, refused.observed) == ("slice_present", 0)


def test_the_same_total_from_two_countries_only_blocks():
    today = normal(57, US=15_000, CA=5_000)
    rest = {name: value for name, value in slices_of(today).items() if name in ("US", "CA")}
    today = today.model_copy(update={"slices": {"country": rest}, "rows": 20_000})
    assert {o.bound["slice"] for o in blocking(found(today))} == {"FR", "DE", "ES"}


def test_a_new_slice_warns():
    today = normal(57)
    more = {**slices_of(today), "IT": SliceProfile(rows=50, labelled=50, positives=5)}
    update = {"slices": {"country": more}, "rows": today.rows + 50}
    [outcome] = [o for o in found(today.model_copy(update=update)) if not o.success]
    assert (outcome.expectation, outcome.severity) == ("slices_known", "warn")
    assert outcome.observed == {"new": 1, "rows": 50}
    assert "IT" not in outcome.to_json(), "what was never seen before may be anything: it is counted, not shown"


def test_rare_slices_are_not_noisy():
    """One row a day is usual: none, and three, are no news."""
    history = [
        changed(p).model_copy(update={"slices": {"country": {**slices_of(p), "IS": SliceProfile(rows=1)}}})
        for p in HISTORY
    ]
    for rows in (0, 3):
        today = normal(57)
        values = {**slices_of(today), **({"IS": SliceProfile(rows=rows)} if rows else {})}
        assert not names(
            run_checks(today.model_copy(update={"slices": {"country": values}}), history, slices=["country"])
        )


def test_positives_lost_in_a_small_slice_block_though_volume_and_overall_rate_are_normal():
    """A payment outage on the Spanish site: 95 % of the positives of 3 % of the rows are gone."""
    today = normal(57)
    spain = slices_of(today)["ES"]
    lost = changed(today, ES=spain.model_copy(update={"positives": spain.positives * 5 // 100}))
    [refused] = blocking(found(lost))
    assert refused.expectation == "label_rate_as_usual"
    assert "slice 'ES'" in refused.note


def test_all_positives_lost_block_by_the_overall_rate():
    """Unlabelled rows read as negatives."""
    today = normal(57)
    none = {name: value.model_copy(update={"positives": 0}) for name, value in slices_of(today).items()}
    assert "all rows" in " ".join(o.note for o in blocking(found(changed(today, **none))))


def test_a_day_on_which_every_rate_doubles_is_not_five_alarms():
    today = normal(57)
    twice = {
        name: value.model_copy(update={"positives": value.positives * 2}) for name, value in slices_of(today).items()
    }
    assert not [o for o in found(changed(today, **twice)) if "slice '" in o.note and not o.success]


def test_labels_that_stop_arriving_block_by_their_coverage():
    today = normal(57)
    unlabelled = {
        name: SliceProfile(rows=value.rows, labelled=value.rows // 5, positives=value.positives // 5)
        for name, value in slices_of(today).items()
    }
    assert "label_coverage_as_usual" in {o.expectation for o in blocking(found(changed(today, **unlabelled)))}


def test_the_first_days_land_and_say_that_nothing_was_compared():
    outcomes = found(normal(57), HISTORY[:2])
    [said] = [o for o in outcomes if o.expectation == "compared_with_history"]
    assert (said.success, said.severity) == (True, "info")
    assert "2 of 3" in said.note
    assert not blocking(outcomes)


def test_a_slice_or_label_that_was_not_profiled_is_unknown_and_blocks():
    outcomes = run_checks(normal(57), HISTORY, slices=["countri"], label="boght")
    assert {o.error for o in blocking(outcomes)} == {
        "the profile has no slices by 'countri'.",
        "there is no label 'boght' in the profile. Did you mean 'bought'?",
    }


def test_days_are_compared_with_the_same_weekday_where_there_are_three():
    assert {date.fromisoformat(next(iter(p.revisions))).weekday() for p in comparable(normal(57), HISTORY)} == {1}
    assert len(comparable(normal(16), HISTORY[:16])) == 16  # two of its weekday only: all of them
