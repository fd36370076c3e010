"""Which columns are compared, and how their rows fall into bins: the sums of days are those of all their rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data.profiles import merge, profile_table
from airflow_mlops.engine.retraining.drift import bins_of, counted, psi

ROWS = 2000


def profile(key: str = "2026-01-05", *, shift: float = 0.0, **columns: list) -> Profile:
    rng = np.random.default_rng(int(key[-2:]))
    table = {
        "km": rng.normal(shift, 1.0, ROWS),
        "carrier": rng.choice(["AA", "UA"], ROWS, p=[0.7, 0.3]).tolist(),
        "is_late": (rng.random(ROWS) < 0.3).tolist(),
        "id": [f"{key}/{n}" for n in range(ROWS)],
        "year": [2026] * ROWS,
        "at": pa.array([0] * ROWS, pa.timestamp("us", tz="UTC")),
        **columns,
    }
    return profile_table(pa.table(table), dataset="orders", key=key, revision="r")


TRAINED = [profile("2026-01-05"), profile("2026-01-06")]
BINS = bins_of(TRAINED, "orders", skip=["label"])


def index(column: str, day: Profile) -> float:
    bins = BINS[f"orders.{column}"]
    return psi(bins["counts"], counted(day.columns.get(column), bins))


def test_ids_times_and_constants_are_not_compared():
    assert set(BINS) == {"orders.km", "orders.carrier", "orders.is_late"}
    assert "orders.km" not in bins_of(TRAINED, "orders", skip=["km"])


def test_a_day_like_the_others_is_near_zero_and_moved_ones_are_not():
    same = profile("2026-01-07")
    assert all(index(column, same) < 0.02 for column in ("km", "carrier", "is_late"))
    assert index("km", profile("2026-01-07", shift=1.0)) > 0.5
    assert index("carrier", profile("2026-01-07", carrier=["AA", "UA"] * (ROWS // 2))) == pytest.approx(0.17, abs=0.03)
    assert index("carrier", profile("2026-01-07", carrier=["AA", "UA", "ZZ", "ZZ"] * (ROWS // 4))) > 1
    assert index("km", profile("2026-01-07", km=[None, 0.1] * (ROWS // 2))) > 1
    assert index("km", profile("2026-01-07", km=["0.1", "0.2"] * (ROWS // 2))) > 1, "numbers became texts"


def test_what_moves_within_the_training_itself_is_known():
    weeks = [profile("2026-01-05", week=[1, 2] * (ROWS // 2)), profile("2026-01-12", week=[2, 3] * (ROWS // 2))]
    bins = bins_of(weeks, "orders")
    assert bins["orders.week"]["moves"] > 1
    assert bins["orders.km"]["moves"] < 0.02


def test_the_counts_of_days_add_up_to_those_of_their_rows():
    days = [profile("2026-01-07"), profile("2026-01-08", shift=0.5)]
    for name in ("carrier", "is_late"):
        bins = BINS[f"orders.{name}"]
        sums = [sum(pair) for pair in zip(*(counted(day.columns[name], bins) for day in days), strict=True)]
        assert sums == counted(merge(days).columns[name], bins)
        assert sum(sums) == 2 * ROWS
    assert sum(counted(days[0].columns["km"], BINS["orders.km"])) == ROWS
