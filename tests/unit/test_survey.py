"""What `airflow-mlops new` sees in a table: layouts of paths, what columns are good for, rows put into days."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.survey.columns import MOST_INPUTS, Survey, survey
from airflow_mlops.engine.survey.landing import cut_for, split
from airflow_mlops.engine.survey.placement import placement
from airflow_mlops.engine.survey.subjects import entities
from airflow_mlops.exceptions import DataError, MlopsError
from airflow_mlops.layout import Layout
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.project.plan import renamed

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

# --- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "cut", "layout"),
    [
        (["2024-01-05/a.csv", "2024-01-06/b.csv"], "daily", "{key}/*.csv"),
        (["dt=2024-01-05/part-0.parquet", "dt=2024-01-06/part-1.parquet"], "daily", "dt={key}/*.parquet"),
        (["orders-2024-01-05.csv.gz", "orders-2024-01-06.csv.gz"], "daily", "orders-{key}.csv.gz"),
        (["orders_20240105.csv", "orders_20240106.csv"], "daily", "orders_{start:%Y%m%d}.csv"),
        (["2024/01/05/a.csv", "2024/01/06/b.csv"], "daily", "{year}/{month:02}/{day:02}/*.csv"),
        (["year=2024/month=1/day=5/a.csv", "year=2024/month=1/day=6/a.csv"], "daily",
         "year={year}/month={month}/day={day}/a.csv"),
        (["dt=2024-01-05/region=eu/a.csv", "dt=2024-01-05/region=us/b.csv"], "daily", "dt={key}/*/*.csv"),
        (["2024-01/a.csv", "2024-02/a.csv"], "monthly", "{key}/a.csv"),
    ],
)  # fmt: skip
def test_a_layout_is_found_in_paths(paths: list[str], cut: str, layout: str):
    found = placement(paths)
    assert found is not None
    assert (found.partitioning.every, found.layout) == (cut, layout)
    for key in found.keys:
        Layout(found.layout).of(key, found.partitioning)


@pytest.mark.parametrize(
    "paths", [["orders.csv"], ["a/b.csv", "2024-01-05.csv"], ["v20249999.csv"], ["a-2024-02-31.csv"]]
)
def test_paths_without_a_day_have_no_layout(paths: list[str]):
    assert placement(paths) is None


def test_missing_days_are_named():
    found = placement(["2024-01-05.csv", "2024-01-08.csv"], "Europe/Berlin")
    assert found is not None
    assert found.missing == ["2024-01-06", "2024-01-07"]
    assert found.partitioning.timezone == "Europe/Berlin"


# --- columns ----------------------------------------------------------------------------------------------


def orders(n: int = 600, **more: list) -> pa.Table:
    """Orders of twenty customers over 60 days; the newest are not decided yet."""
    rng = random.Random(5)
    at = [BEGIN + timedelta(days=60 * i / n) for i in range(n)]
    returned = [rng.random() < 0.4 for _ in range(n)]
    decided = [None if i > n - 60 else at[i] + timedelta(days=rng.uniform(1, 5)) for i in range(n)]
    known = [value if day else None for value, day in zip(returned, decided, strict=True)]
    columns = {
        "order_id": [f"o{i}" for i in range(n)],
        "ordered_at": at,
        "customer": [f"c{rng.randrange(20)}" for _ in range(n)],
        "price": [rng.uniform(5, 200) for _ in range(n)],
        "returned": known,
        "decided_at": decided,
    }
    return pa.table(columns | more)


def looked(rows: pa.Table, **changes: str) -> Survey:
    return survey(rows, **{"entity": "order_id", "time": "ordered_at", "label": "returned"} | changes)


def test_columns_are_taken_for_what_they_are():
    found = looked(orders())
    assert {one.name: one.use for one in found.columns} == {
        "order_id": "entity", "ordered_at": "time", "customer": "key", "price": "input", "returned": "label",
        "decided_at": "known at",
    }  # fmt: skip
    assert found.problem.name == "binary"
    assert found.matures_after == timedelta(days=5)
    assert 0.3 < found.label_rate < 0.5


def test_columns_that_tell_too_much_are_left_out_with_the_reason():
    rows = orders()
    known = rows["returned"].to_pylist()
    rows = rows.append_column("came_back", pa.array(["yes" if one else "no" for one in known]))
    rows = rows.append_column("refund", pa.array([9.5 + i % 7 if one else None for i, one in enumerate(known)]))
    rows = rows.append_column("note", pa.array([None if one is None else f"n{i % 5}" for i, one in enumerate(known)]))
    found = looked(rows)
    assert found.of("came_back").why == "a copy of the label"
    assert found.of("refund").why.startswith("tells the label alone")
    assert found.of("note").why == "known only when the label is"
    assert found.inputs == ("price",)


def test_two_columns_of_which_no_value_is_there_twice_are_no_copies():
    rng = random.Random(6)
    amounts = [rng.gauss(50, 9) for _ in range(600)]
    found = looked(orders(amount=amounts, weight=[rng.random() for _ in range(600)]), label="amount")
    assert {"price", "weight"} <= set(found.inputs)
    copied = looked(orders(amount=amounts, same=[2 * one + 1 for one in amounts]), label="amount")
    assert "tells the label alone" in copied.of("same").why


def test_what_no_model_can_take_is_left_out_with_the_reason():
    n = 600
    found = looked(
        orders(
            email=[f"{i}@example.com" for i in range(n)],
            shop=["a"] * n,
            place=[f"p{i % 100}" for i in range(n)],
            shipped=[BEGIN + timedelta(days=i % 9) for i in range(n)],
            gift=[None if i % 9 == 0 else i % 2 == 0 for i in range(n)],
            tags=[["a"]] * n,
            score=[f"0.{i:03}456789012345678" for i in range(n)],
        ),
        key="customer",
    )
    assert {one.name: one.why for one in found.columns if not one.use} == {
        "email": "nearly unique",
        "shop": "the same in every row",
        "place": "a text of 100 values",
        "shipped": "a time",
        "gift": "true, false or missing: a model takes no missing truth values",
        "tags": "of type list<item: string>",
        "score": "numbers that are texts",
    }


def test_of_many_columns_those_are_taken_that_tell_most():
    rng = random.Random(1)
    rows = orders()
    hint = [rng.gauss(1.0 if one else 0.0, 1.0) for one in rows["returned"].to_pylist()]
    noise = {f"x{i}": [rng.random() for _ in range(len(rows))] for i in range(400)}
    found = looked(orders(hint=hint, **noise))
    assert len(found.inputs) == MOST_INPUTS
    assert "hint" in found.inputs
    assert sum(one.why == f"{MOST_INPUTS} others tell more" for one in found.columns) == 402 - MOST_INPUTS


def test_a_column_that_tells_suspiciously_much_is_asked_about():
    rng = random.Random(2)
    rows = orders()
    told = [float(bool(one)) + rng.gauss(0, 0.3) for one in rows["returned"].to_pylist()]
    found = looked(orders(told=told))
    assert "is it known before the label?" in found.of("told").why
    assert "told" in found.inputs


def test_without_a_time_of_the_label_seven_days_are_waited_for():
    found = looked(orders().drop_columns(["decided_at"]))
    assert (found.known_at, found.matures_after) == ("", timedelta(days=7))


def test_other_labels():
    rows = orders(reason=["late" if i % 3 else "size" for i in range(600)], amount=[i % 17 + 0.5 for i in range(600)])
    assert looked(rows, label="reason").classes == ("late", "size")
    assert looked(rows, label="amount").problem.name == "regression"


def test_what_can_name_a_row():
    assert entities(orders(twice=[i // 2 for i in range(600)])) == ["order_id"]


@pytest.mark.parametrize(
    ("more", "changes", "said"),
    [
        ({}, {"label": "retruned"}, "Did you mean 'returned'?"),
        ({}, {"time": "price"}, "The time 'price' is double, and no time."),
        ({"at": ["01/02/2024 10:00"] * 600}, {"time": "at"}, "it looks like '99/99/9999 99:99'"),
        ({}, {"entity": "customer"}, "The entity 'customer' does not name a row: 580 of 600 rows repeat one."),
        ({}, {"label": "order_id"}, "The column 'order_id' cannot be two things."),
        ({"kind": [True] * 600}, {"label": "kind"}, "The label 'kind' has one value only"),
        ({"kind": pa.nulls(600)}, {"label": "kind"}, "The label 'kind' is missing in every row."),
        ({"stars": [i % 5 for i in range(600)]}, {"label": "stars"}, "are they classes, or amounts?"),
        ({"text": [f"t{i}" for i in range(600)]}, {"label": "text"}, "is a text of 600 values"),
        ({}, {"label": "decided_at"}, "The label 'decided_at' is a time"),
        ({}, {"known_at": "price"}, "does not say when the label is known"),
        ({"rank": [i % 5 for i in range(600)]}, {"label": "rank", "problem": "ranking"}, "--problem regression"),
    ],
)
def test_what_cannot_be_is_said_in_words(more: dict, changes: dict, said: str):
    with pytest.raises(MlopsError, match="fix:") as error:
        looked(orders(**more), **changes)
    assert said in str(error.value)


def test_without_anything_that_repeats_the_history_is_of_all_rows():
    found = looked(orders().drop_columns(["customer"]))
    assert (found.key, found.inputs) == ("", ("price",))


def test_without_anything_that_tells_rows_apart_nothing_is_learned():
    with pytest.raises(DataError, match="No column says anything"):
        looked(orders(shop=["a"] * 600).drop_columns(["customer", "price"]))


def test_names_that_feast_or_python_cannot_hold_are_changed():
    assert renamed(["price", "Price", "unit price", "2nd", "größe (cm)", "id_"]) == {
        "price": "price", "Price": "Price_2", "unit price": "unit_price", "2nd": "c_2nd", "größe (cm)": "gr_e_cm",
        "id_": "id_",
    }  # fmt: skip


def test_a_good_name_stays_with_its_column_and_a_word_of_python_is_none():
    assert renamed(["net price", "net_price", "class"]) == {
        "net price": "net_price_2", "net_price": "net_price", "class": "c_class",
    }  # fmt: skip


def test_names_that_computed_features_have_are_changed_but_for_the_time():
    assert renamed(["event_timestamp", "created_timestamp"], "event_timestamp") == {
        "event_timestamp": "event_timestamp", "created_timestamp": "created_timestamp_2",
    }  # fmt: skip


# --- rows put into days -----------------------------------------------------------------------------------


def test_rows_are_put_into_days_of_their_zone_and_no_day_is_missing(tmp_path: Path):
    moments = [BEGIN - timedelta(minutes=30), BEGIN, BEGIN + timedelta(days=3), None, BEGIN + timedelta(days=90)]
    rows = pa.table(
        {"at": pa.array(moments, pa.timestamp("us", "UTC")), "Customer ID": ["a", "b", "c", "d", "e"], "x": [1] * 5}
    )
    names = {"at": "at", "Customer ID": "customer"}
    moment = BEGIN + timedelta(days=3)
    cut = Partitioning.parse("daily@Europe/Berlin")
    left_out = split([rows.slice(0, 2), rows.slice(2)], tmp_path / "orders", "at", cut, names, until=moment)
    assert left_out == {"without a time": 1, "of the future": 1}
    found = {
        folder.name: pa.concat_tables(pq.read_table(file, partitioning=None) for file in folder.iterdir())
        for folder in (tmp_path / "orders").iterdir()
    }
    assert {name: table.num_rows for name, table in sorted(found.items())} == {
        "dt=2024-01-01": 2, "dt=2024-01-02": 0, "dt=2024-01-03": 0, "dt=2024-01-04": 1,
    }  # fmt: skip
    assert {tuple(table.column_names) for table in found.values()} == {("at", "customer")}


@pytest.mark.parametrize(("rows", "every"), [(6000, "daily"), (300, "weekly"), (40, "monthly")])
def test_few_rows_are_put_into_larger_partitions(rows: int, every: str):
    assert cut_for(rows, BEGIN, BEGIN + timedelta(days=365), "UTC").every == every


@pytest.mark.parametrize("cut", ["weekly", "monthly"])
def test_weeks_and_months(tmp_path: Path, cut: str):
    rows = pa.table({"at": pa.array([BEGIN + timedelta(days=n) for n in range(40)], pa.timestamp("us", "UTC"))})
    partitioning = Partitioning.parse(cut)
    split([rows], tmp_path / "orders", "at", partitioning, {"at": "at"}, until=BEGIN + timedelta(days=60))
    keys = sorted(folder.name.removeprefix("dt=") for folder in (tmp_path / "orders").iterdir())
    assert keys == list(partitioning.keys(BEGIN, BEGIN + timedelta(days=39, hours=1)))
