"""What a form may ask to be other than usual, and what it is told in words where it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.emergency import (
    begin_of,
    check_data,
    check_parameters,
    check_read,
    check_window,
    estimate,
    parse_excluded,
    parse_slices,
    rows_of,
)
from airflow_mlops.exceptions import ConfigError, DataError
from tests.retraining_fixtures import START, World, at
from tests.unit.test_retraining_config import pipeline

BAD = {"source": "orders", "start": START}


def test_days_and_spans_become_windows():
    one, span = parse_excluded(" 2026-01-05, 2026-01-07/2026-01-09 ,", "orders", "ann", "a bad day")
    assert (one.start, one.end) == (at(0), at(1))
    assert (span.start, span.end) == (at(2), at(5))
    assert (span.who, span.reason, span.dataset) == ("ann", "a bad day", "orders")
    assert parse_excluded("", "orders", "ann", "why") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yesterday", "is not a day"),
        ("2026-01-05/", None),
        ("2026-01-09/2026-01-07", "ends before it begins"),
        ("2026-01-05, 2026-01-04/2026-01-06", "names a day twice"),
        ("2026-01-05, 2026-01-05", "names a day twice"),
    ],
)
def test_what_is_no_window_is_refused(text: str, says: str | None):
    if says is None:
        assert len(parse_excluded(text, "orders", "ann", "why")) == 1
        return
    with pytest.raises(ConfigError, match=says):
        parse_excluded(text, "orders", "ann", "why")


def test_slices_are_columns_and_values():
    assert parse_slices(" carrier=AA, carrier = UA ,origin=JFK,") == {"carrier": ["AA", "UA"], "origin": ["JFK"]}
    assert parse_slices("note=a=b") == {"note": ["a=b"]}
    assert parse_slices("") == {}
    for text in ("AA", "=AA", "carrier="):
        with pytest.raises(ConfigError, match="is not readable"):
            parse_slices(text)
    with pytest.raises(ConfigError, match="names a slice twice"):
        parse_slices("carrier=AA, carrier=AA")


def test_rows_that_are_brought_along(tmp_path: Path):
    world = World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    world.seal(0, rows=10)
    assert rows_of(tmp_path / "lake" / "orders" / "2026-01-05") == 10
    with pytest.raises(DataError):
        rows_of(tmp_path / "none")
    check_data("lake/mine.parquet", {"slices": "carrier=AA", "window": ""})
    with pytest.raises(ConfigError, match="something else is asked of the sealed ones") as refused:
        check_data("lake/mine.parquet", {"window": "20d", "as_of": "2026-01-05T00:00:00+00:00"})
    assert refused.value.hint.startswith("Leave out window and as_of")
    with pytest.raises(ConfigError, match="runs no query"):
        check_data("select * from x", {})


def test_parameters_keep_their_types():
    usual = {"hidden": [64], "rate": 1, "deep": True}
    assert check_parameters(usual, {"rate": 0.1, "new": "x"}) == {**usual, "rate": 0.1, "new": "x"}
    with pytest.raises(ConfigError, match="Parameter 'hidden' is"):
        check_parameters(usual, {"hidden": "8"})
    with pytest.raises(ConfigError, match="Parameter 'rate'"):
        check_parameters(usual, {"rate": True})


def test_the_price_is_that_of_the_last_training_by_rows(tmp_path: Path):
    world = World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    for day in range(6):
        world.seal(day, rows=10)

    def priced(window: str, *without: str, end: datetime | None = None):
        windows = parse_excluded(", ".join(without), "orders", "ann", "why")
        return estimate(world.ledger, world.store, "m", end=end or at(6), window=window, without=windows, **BAD)

    assert str(priced("20d")) == (
        "60 rows of 6 partitions, from 2026-01-05 00:00 to 2026-01-11 00:00 UTC; how long it takes is not known: no "
        "training was written down yet"
    )
    world.train(1, 6)
    half = priced("3d", "2026-01-09")
    assert (half.partitions, half.rows) == (2, 20)
    assert half.seconds == pytest.approx(120 * 20 / 1200)
    with pytest.raises(DataError, match="Nothing is left to train on"):
        priced("3d", "2026-01-08/2026-01-10")
    with pytest.raises(DataError, match="Nothing is left"):
        priced("3d", end=datetime(2020, 1, 1, tzinfo=UTC))


def test_a_window_of_which_all_is_held_out_is_refused(tmp_path: Path):
    check_window("15d", "1w", "7d")
    for window in ("14d", "2w", "1h"):
        with pytest.raises(ConfigError, match=f"A window of {window} leaves nothing(.|\n)*validation=1w, test=7d"):
            check_window(window, "1w", "7d")
    with pytest.raises(ConfigError, match="'soon' is not a duration"):
        check_window("soon", "1w", "7d")
    world = World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    for day in range(6):
        world.seal(day, rows=10)

    def priced(days: int, *without: str):
        windows = parse_excluded(", ".join(without), "orders", "ann", "why")
        held_out = timedelta(days=days)
        given = {"end": at(6), "window": "20d", "without": windows, "held_out": held_out, **BAD}
        return estimate(world.ledger, world.store, "m", **given)

    assert priced(5).partitions == 6
    with pytest.raises(DataError, match=r"Nothing is left(.|\n)*after 2026-01-05 00:00 UTC held out"):
        priced(6)
    with pytest.raises(DataError, match="Nothing is left"):
        priced(4, "2026-01-05/2026-01-06")


def test_a_window_that_cannot_fit_is_warned_of():
    from airflow_mlops import Retrain
    from airflow_mlops.templates.retrain import warn_of_age

    made = pipeline(retrain=Retrain(cron="@weekly", new_rows=5, cooldown="1d", max_age="8d"))
    with pytest.warns(UserWarning, match=r"can be 8 days, 2:25:00 old .* between trainings 7 days"):
        warn_of_age(made)


def test_days_that_a_training_does_not_read_are_not_left_out_in_silence(tmp_path: Path):
    world = World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    world.seal_days(0, 6)
    begin = begin_of(world.store, end=at(6), window="3d", **BAD)
    assert begin == at(3)
    check_read(parse_excluded("2026-01-08, 2026-01-10/2026-02-01", "orders", "ann", "why"), begin, at(6))
    with pytest.raises(ConfigError, match=r"(?s)does not read.*2025-01-08, 2026-01-07; it reads from 2026-01-08 00:00"):
        check_read(parse_excluded("2025-01-08, 2026-01-07, 2026-01-08", "orders", "ann", "why"), begin, at(6))
