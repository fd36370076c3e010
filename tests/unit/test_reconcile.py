"""Rows in = rows out + rejected, and two sources held against each other."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import FeatureService, Reconcile, Rows
from airflow_mlops.engine.data.checks import reconcile_partitions, reconcile_rows, reconcile_sources
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.operators.reconcile import ReconcilePartitionsOperator
from tests.checks_fixtures import arrive, with_column
from tests.unit.test_pipeline import pipeline

NAN = float("nan")


def test_a_transform_that_drops_a_tenth_without_saying_so_blocks():
    [refused] = reconcile_rows(1000, 900, {})
    assert (refused.success, refused.severity, refused.unexpected_count) == (False, "block", 100)
    assert "100 rows are missing without a reason" in refused.note
    [said] = reconcile_rows(1000, 900, {"cancelled": 60, "no tail number": 40})
    assert said.success
    assert said.note == "rejected: cancelled: 60, no tail number: 40"


@pytest.mark.parametrize(("rows_out", "passes"), [(300, True), (297, True), (290, False), (1000, False)])
def test_a_declared_sample_is_held_to_its_ratio(rows_out, passes):
    [outcome] = reconcile_rows(1000, rows_out, {}, expected_ratio=0.3, tolerance=0.01)
    assert outcome.success == passes


def test_rows_that_come_from_nowhere_block():
    [refused] = reconcile_rows(1000, 1010, {})
    assert "10 rows are too many" in refused.note
    [refused] = reconcile_rows(10, 0, {"bad": 20})
    assert not refused.success


def test_a_loss_in_one_slice_that_the_total_tolerates_blocks_by_name():
    """A join that loses all discounted purchases."""
    total, full, discounted = reconcile_rows(
        10_000, 9_950, {}, tolerance=0.01, by_slice={"full": (9_950, 9_950, 0), "discounted": (50, 0, 0)}
    )
    assert (total.success, full.success, discounted.success) == (True, True, False)
    assert "slice 'discounted'" in discounted.note


@pytest.mark.parametrize(
    ("rows_out", "rejected", "how"),
    [
        (-1, {}, {}),
        (0, {"bad": -100}, {}),
        (0, {}, {"expected_ratio": NAN}),
        (0, {}, {"tolerance": NAN}),
        (0, {}, {"tolerance": float("inf")}),
        (100, {}, {"by_slice": {"a": (1, -1, 0)}}),
    ],
)
def test_nonsense_is_refused(rows_out, rejected, how):
    with pytest.raises(ConfigError, match="cannot be reconciled"):
        reconcile_rows(100, rows_out, rejected, **how)


ORDERS = pa.table({"id": [1, 2, 3, 4], "shop": ["a", "a", "b", "b"], "paid": [10.0, 20.0, 30.0, 40.0]})
BANK = pa.table({"id": [1, 2, 3, 4, 5], "paid": [10.0, 20.0, 30.0, 40.0, 5.0]})


def found(right: pa.Table, **how):
    return {o.expectation: o for o in reconcile_sources(ORDERS, right, ["id"], **how) if not o.success}


def test_sources_that_agree_pass():
    assert not found(BANK, compare={"paid": 0.01}, by="shop")


def test_no_match_at_all_is_said_as_such():
    renumbered = BANK.set_column(0, "id", pa.array([11, 12, 13, 14, 15]))
    refused = found(renumbered, min_match=0.0)["sources_match"]
    assert refused.severity == "block"
    assert refused.note.startswith("merged = 0")


def test_a_share_of_matches_that_is_too_small_on_either_side():
    assert found(BANK.slice(0, 2), min_match=0.9)["sources_match"].unexpected_count == 2
    assert found(BANK, max_unmatched_right=0.1)["sources_match"].unexpected_count == 1


def test_sums_that_differ_in_one_slice_name_it():
    wrong = BANK.set_column(1, "paid", pa.array([10.0, 20.0, 30.0, 90.0, 5.0]))
    [refused] = [
        o for o in reconcile_sources(ORDERS, wrong, ["id"], compare={"paid": 0.01}, by="shop") if not o.success
    ]
    assert (refused.observed, refused.column) == ({"left": 70.0, "right": 120.0}, "paid")
    assert "slice 'b'" in refused.note


def test_rows_repeated_in_one_source_do_not_multiply_the_other(tmp_path):
    pq.write_table(pa.concat_tables([BANK, BANK]), tmp_path / "bank.parquet")
    outcomes = reconcile_sources(ORDERS, [tmp_path / "bank.parquet"], ["id"], compare={"paid": 0.01})
    assert [(o.expectation, o.observed) for o in outcomes] == [
        ("sources_match", {"merged": 4, "share": 1.0}),
        ("keys_not_repeated", {"side": "right", "repeated": 5}),
        ("sources_agree", {"left": 100.0, "right": 200.0}),
    ]


def test_a_column_that_is_not_there_is_unknown():
    [outcome] = reconcile_sources(ORDERS, BANK, ["idd"])
    assert outcome.error == "there is no column 'idd'. Did you mean 'id'?"
    assert not outcome.success


@pytest.mark.parametrize("bounds", [{"min_match": NAN}, {"max_unmatched_right": 2.0}, {"compare": {"paid": NAN}}])
def test_bounds_that_nothing_can_break_are_refused(bounds):
    with pytest.raises(ConfigError, match="cannot be reconciled"):
        reconcile_sources(ORDERS, BANK, ["id"], **bounds)


@pytest.mark.parametrize("paid", [[NAN, 20.0, 30.0, 40.0, 5.0], [1.0, NAN, 30.0, 5000.0, 5.0]])
def test_nan_is_missing_and_hides_no_difference(paid):
    assert found(BANK.set_column(1, "paid", pa.array(paid)), compare={"paid": 0.01})["sources_agree"]


@pytest.mark.parametrize("nothing", [pa.array([NAN] * 5), pa.nulls(5, pa.float64())])
def test_a_side_without_any_value_blocks(nothing):
    zeros = ORDERS.set_column(2, "paid", pa.array([0.0] * 4))
    right = BANK.set_column(1, "paid", nothing)
    [refused] = [o for o in reconcile_sources(zeros, right, ["id"], compare={"paid": 0.01}) if not o.success]
    assert (refused.severity, refused.note) == ("block", "nothing but missing values on the right")


def test_keys_that_repeat_are_said_of_their_side():
    doubled = pa.concat_tables([BANK, BANK.slice(0, 1)])
    warned = found(doubled)["keys_not_repeated"]
    assert (warned.severity, warned.observed) == ("warn", {"side": "right", "repeated": 1})


def test_columns_may_have_any_name():
    table = pa.table({"other sum": [1, 2], "slice": [1.0, 2.0]})
    assert all(o.success for o in reconcile_sources(table, table, ["other sum"], compare={"slice": 0.1}))


class TaskInstance:
    def xcom_push(self, key: str, value: object) -> None:
        """Take a link."""


# --- of sealed days ---------------------------------------------------------------------------------------

PAIR = Reconcile("arrivals", "departures", on=["flight_id"], back="1d")


@pytest.fixture
def store(home):
    """Two real days of departures and the second one's landings, sealed."""
    store = PartitionStore.under(home, Ledger(f"sqlite:///{home}/ledger.db"))
    for day in (date(2013, 6, 11), date(2013, 6, 12)):
        arrive(store, "departures", day, guard=False)
    arrive(store, "arrivals", date(2013, 6, 12), guard=False)
    return store


def reconciled(store, how=PAIR, start=date(2013, 1, 1)):
    return reconcile_partitions(store, store.ledger, "2013-06-12", how, start=start)


def test_what_landed_had_left_the_day_or_the_day_before(store):
    result = reconciled(store)
    assert not result.failed
    assert result.outcomes[0].observed["share"] == 1.0
    today_only = Reconcile("arrivals", "departures", on=["flight_id"], min_match=1.0)
    assert reconciled(store, today_only).blocked, "of some, the departure is in the partition before"


def test_a_renumbered_key_blocks_by_name(store):
    def renumbered(table):
        return with_column(table, "flight_id", pc.binary_join_element_wise("v2", table["flight_id"], "-"))

    arrive(store, "arrivals", date(2013, 6, 12), renumbered, guard=False)
    [refused] = reconciled(store).failed
    assert (refused.severity, refused.column) == ("block", "flight_id")
    assert refused.note.startswith("merged = 0")


def test_where_a_partner_may_lie_before_the_feed_began_nothing_is_judged(store):
    [said] = reconciled(store, start=date(2013, 6, 12)).outcomes
    assert said.success
    assert "'departures' begins on 2013-06-12" in said.note


def test_an_excluded_day_of_partners_is_said_and_not_judged(store):
    begin = datetime(2013, 6, 11, tzinfo=UTC)
    exclude(store.ledger, "departures", begin, begin + timedelta(days=1), "wrong", "ann")
    [said] = reconciled(store).outcomes
    assert said.success
    assert "2013-06-11 is excluded" in said.note


def test_a_day_of_partners_that_was_never_sealed_is_an_error(store):
    with pytest.raises(DataError, match="1 of 3 partitions of 'departures' are not sealed; the first is 2013-06-10"):
        reconciled(store, Reconcile("arrivals", "departures", on=["flight_id"], back="2d"))


def test_the_features_dag_reconciles_before_it_computes():
    features = FeatureService("m_v1", transform="c:c", suite="s:s", rows=[Rows("traffic", "departures")])
    pair = Reconcile("arrivals", "departures", on=["id"], compare={"paid": 0.1})
    dag = pipeline(reconcile=[pair], features=features).dags()["m_features"]
    task = dag.get_task("reconcile_arrivals_with_departures")
    assert task.upstream_task_ids == {"arrivals.seal", "departures.seal"}
    assert task.downstream_task_ids == {"apply"}
    assert Reconcile(**json.loads(json.dumps(task.reconcile))) == pair
    assert [Rows(**given) for given in dag.get_task("compute_features").rows] == features.rows


def test_the_operator_refuses_the_day_writes_it_down_and_shows_a_report(home, store, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT",
        json.dumps({"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}),
    )
    arrive(store, "arrivals", date(2013, 6, 12), lambda table: table.slice(0, 400), guard=False)
    kept = ReconcilePartitionsOperator(
        task_id="pair", reconcile=asdict(PAIR), start="2013-01-01", key="2013-06-12", home=str(home)
    )
    assert kept.execute({"ti": TaskInstance()})["rows"] == 400
    strict = {**asdict(PAIR), "left": "departures", "right": "arrivals", "back": None}
    refused = ReconcilePartitionsOperator(
        task_id="pair", reconcile=strict, start="2013-01-01", key="2013-06-12", home=str(home)
    )
    with pytest.raises(AirflowFailException, match="expectations of 'reconciliation' do not hold"):
        refused.execute({"ti": TaskInstance()})
    assert len(list((home / "reports").glob("*.html"))) == 2
    [fact] = store.ledger.facts("validation", "departures.arrivals", key="2013-06-12")
    assert fact.payload["outcomes"][0]["severity"] == "block"
