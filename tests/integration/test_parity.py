"""What is served held against what training reads: alike for days on end; and every way of being unlike is named."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from airflow_mlops.contracts import ParityReport, VerdictStatus
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.parity.check import (
    Entities,
    check_parity,
    enforce_parity,
    logged_entities,
    recent_entities,
)
from airflow_mlops.engine.features.parity.values import alike
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.operators.feast import FeastCheckParityOperator
from airflow_mlops.templates.deploy import deploy_dag
from tests.feast_fixtures import ledger_of
from tests.online_fixtures import DEFINITIONS, SERVICE
from tests.online_stores import dynamodb_online, online, redis_online  # noqa: F401 - fixtures
from tests.parity_fixtures import SHOPS, bring_online, deliveries, midnight, parity, write_features
from tests.unit import test_pipeline as made

PASS, FAIL, NOT_EVALUATED = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.NOT_EVALUATED


@pytest.fixture
def served(tmp_path) -> Location:
    """Three days, computed and online."""
    location = deliveries(tmp_path, 3)
    bring_online(location, 3)
    return location


def feature(report: ParityReport, name: str):
    return next(one for one in report.features if one.feature == name)


def overwrite(location: Location, view: str, keys: dict[str, Value], moment: datetime, **values: Value) -> None:
    """Put values online as another writer would, past everything that guards types."""
    store = open_store(location)
    key = EntityKey(join_keys=list(keys), entity_values=list(keys.values()))
    store._get_provider().online_write_batch(
        store.config, store.get_feature_view(view), [(key, values, moment, moment)], None
    )


def of_shop(location: Location, shop: str, **values: Value) -> None:
    overwrite(location, "sales", {"shop": Value(string_val=shop)}, midnight(3) - timedelta(hours=1), **values)


# --- alike ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", ["sqlite", "redis", "dynamodb"], indirect=True)
def test_what_was_materialised_is_what_training_reads(tmp_path, online):  # noqa: F811
    location = deliveries(tmp_path, 3, {"online_store": online})
    bring_online(location, 3)
    report = parity(location, rows=100)
    assert (report.status, report.reason, report.rows) == (PASS, "", 100)
    assert {one.feature for one in report.features} == set(OnlineReader(location, SERVICE).plan.outputs)
    assert all(one.compared >= 50 for one in report.features)
    assert feature(report, "share").view == "order", "computed on demand, on both sides"
    assert feature(report, "share").compared < 100, "of one item in four nothing is known"
    assert set(report.moments.values()) == {midnight(3) - timedelta(microseconds=1)}
    enforce_parity(report)
    assert ParityReport.from_json(report.to_json()) == report


def test_views_that_stand_at_different_moments_are_each_read_at_their_own(tmp_path):
    """Weather went on for a day when the shops stood still; its online values are a day newer."""
    from airflow_mlops.engine.features.materialization.materialize import materialize_chunk, plan_chunks

    location = deliveries(tmp_path, 3)
    bring_online(location, 2)
    ledger = ledger_of(location.home)
    chunks = [c for c in plan_chunks(location, SERVICE, until=midnight(3), ledger=ledger) if c["view"] == "weather"]
    assert chunks
    for chunk in chunks:
        materialize_chunk(location, chunk, ledger=ledger)
    report = parity(location)
    assert report.status is PASS, report.reason
    assert report.moments["weather_here"] - report.moments["sales"] == timedelta(days=1)


def test_values_past_their_time_to_live_are_missing_on_both_sides(tmp_path):
    """Nothing of sales is computed from the second day on: its three days end at the last check."""
    location = deliveries(tmp_path, 5)
    for n in range(1, 5):
        file = feature_file(location.home, "sales", str(midnight(n).date()))
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    bring_online(location, 3)
    assert parity(location).status is PASS
    bring_online(location, 5)
    assert OnlineReader(location, SERVICE).read_view("sales", [{"shop": "s1"}])[0][0] is not None, "still there"
    report = parity(location)
    assert feature(report, "visits").compared == 0
    assert (report.status, report.reason) == (NOT_EVALUATED, "no value to compare of: sales")


def test_the_sample_is_the_newest_and_the_same_for_the_same_seed(served):
    reader, store = OnlineReader(served, SERVICE), PartitionStore.under(served.home)

    def ids(**options) -> list[str]:
        return list(recent_entities(reader, store, "orders", entity="order_id", **options).ids)

    assert ids(rows=50, seed=3) == ids(rows=50, seed=3)
    assert ids(rows=50, seed=3) != ids(rows=50, seed=4)
    assert {one[:3] for one in ids(rows=50)} == {"o2-"}
    assert len(ids(rows=1000)) == 240, "all there are"
    assert {one[:3] for one in ids(rows=100)} == {"o1-", "o2-"}
    assert {one[:3] for one in ids(rows=10, until=midnight(0).date())} == {"o0-"}


# --- unlike -----------------------------------------------------------------------------------------------


def test_a_value_that_differs_is_named_with_its_entities_and_no_raw_value(served):
    of_shop(served, "s4", turnover=Value(double_val=12345.678))
    report = parity(served, rows=200)
    assert (report.status, report.reason) == (FAIL, "turnover")
    found = feature(report, "turnover")
    assert found.unlike == found.differing + found.missing_offline > 0
    assert found.examples
    assert all(one.startswith("o") for one in found.examples)
    assert [one.feature for one in report.failed] == ["turnover"]
    with pytest.raises(DataError, match=r"turnover \(sales\): of 200, (.|\n)*such as o(.|\n)*fix:") as raised:
        enforce_parity(report)
    assert "12345" not in str(raised.value) + report.to_json().replace(str(found.largest), "")


def test_nobody_is_named_unless_asked_for(served):
    of_shop(served, "s4", turnover=Value(double_val=12345.678))
    sample = recent_entities(OnlineReader(served, SERVICE), PartitionStore.under(served.home), "orders", rows=200)
    report = check_parity(served, SERVICE, sample, ledger=ledger_of(served.home))
    assert feature(report, "turnover").unlike
    assert not feature(report, "turnover").examples
    with pytest.raises(DataError, match=r"turnover \(sales\): of 200, ") as raised:
        enforce_parity(report)
    assert "such as" not in str(raised.value)


def test_a_stale_row_is_found(served):
    """A day was computed again with other values, and not materialised."""
    rows = feature_file(served.home, "sales", str(midnight(2).date()))
    table = pq.read_table(rows)
    changed = table.set_column(table.schema.get_field_index("visits"), "visits", pc.add(table["visits"], 1))
    pq.write_table(changed, rows)
    report = parity(served, rows=50)
    assert (report.status, report.reason) == (FAIL, "visits")
    assert feature(report, "visits").differing == 50
    assert feature(report, "visits").largest == 1.0
    bring_online(served, 3)
    assert parity(served, rows=50).status is PASS, "the remedy that the message names"


def test_a_whole_number_where_a_float_belongs_is_a_difference_of_type(served):
    for shop in SHOPS:
        value = OnlineReader(served, SERVICE).read_view("sales", [{"shop": shop}])[0][1][0]
        if value is not None:
            of_shop(served, shop, turnover=Value(int64_val=round(value)))
    report = parity(served, rows=50)
    found = feature(report, "turnover")
    assert (report.status, report.reason) == (FAIL, "turnover")
    assert found.wrong_type == found.compared > 0
    assert found.types == ("int",)
    with pytest.raises(DataError, match=r"of another type \(int\)"):
        enforce_parity(report)


def test_what_is_missing_on_one_side_only_is_told_apart(served):
    of_shop(served, "s1", visits=Value())
    feature_file(served.home, "weather", str(midnight(2).date())).unlink()
    feature_file(served.home, "weather", str(midnight(1).date())).unlink()
    feature_file(served.home, "weather", str(midnight(0).date())).unlink()
    write_features(served.home, 5)  # later than the moment: not seen offline either
    report = parity(served, rows=100)
    assert feature(report, "visits").missing_online > 0
    assert feature(report, "visits").missing_offline == 0
    assert feature(report, "rain").missing_offline == 100
    assert feature(report, "rain").compared == 0
    assert report.status is FAIL, "that nothing can be compared is no excuse"


def test_another_function_at_serving_than_in_training_is_found(served, monkeypatch):
    reader = OnlineReader(served, SERVICE)
    sample = recent_entities(reader, PartitionStore.under(served.home), "orders", entity="order_id", rows=50)
    [view] = reader.plan.on_demand
    right = view.view.transform_dict

    def in_local_time(columns):
        answer = right(columns)
        return {**answer, "hour": [(hour - 5) % 24 for hour in answer["hour"]]}

    monkeypatch.setattr(view.view, "transform_dict", in_local_time)
    report = check_parity(served, SERVICE, sample, ledger=ledger_of(served.home), reader=reader)
    assert [one.feature for one in report.failed] == ["hour"]
    assert feature(report, "hour").differing == 50


# --- what is allowed --------------------------------------------------------------------------------------


def shifted(location: Location, by: float) -> None:
    for shop in SHOPS:
        value = OnlineReader(location, SERVICE).read_view("sales", [{"shop": shop}])[0][1][0]
        if value is not None:
            of_shop(location, shop, turnover=Value(double_val=value + by))


def test_tolerance_by_argument_and_by_tag(tmp_path):
    location = deliveries(tmp_path / "plain", 2)
    bring_online(location, 2)
    shifted(location, 0.5)
    assert parity(location).reason == "turnover"
    assert parity(location, tolerance=0.4).status is FAIL
    assert parity(location, tolerance=0.6).status is PASS
    tag = '{**TAGS, "parity_tolerance": "0.6"}'
    field = 'Field(name="turnover", dtype=Float64'
    for name, text in (
        ("view", DEFINITIONS.replace('source=source("sales"), tags=TAGS', f'source=source("sales"), tags={tag}')),
        ("feature", DEFINITIONS.replace(field, f"{field}, tags={tag}")),
    ):
        assert "0.6" in text
        location = deliveries(tmp_path / name, 2, definitions=text)
        bring_online(location, 2)
        shifted(location, 0.5)
        report = parity(location)
        assert report.status is PASS, name
        assert feature(report, "turnover").tolerance == 0.6
        assert feature(report, "rain").tolerance < 1e-6


def test_a_share_of_entities_may_be_allowed_to_be_unlike(served):
    of_shop(served, "s4", visits=Value(int64_val=-1))
    unlike = feature(parity(served, rows=200), "visits").unlike
    assert 0 < unlike < 40
    assert parity(served, rows=200, max_unlike=unlike / 200).status is PASS
    assert parity(served, rows=200, max_unlike=(unlike - 1) / 200).status is FAIL


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1.0, 1.0 + 1e-7, True), (1.0, 1.0 + 1e-5, False), (0.0, 1e-10, True), (0.0, 1e-8, False),
        (1e12, 1e12 + 1e5, True), (math.inf, math.inf, True), (math.inf, 1.0, False), (3, 3, True), (3, 4, False),
        (True, True, True), (True, 1, False), (1.0, True, False), ("a", "a", True), ("a", "A", False),
        ("1", 1.0, False), (midnight(0), midnight(0) + timedelta(milliseconds=999), True),
        (midnight(0), midnight(0) + timedelta(seconds=1), False),
        ([1.0, 2.0], [1.0, 2.0 + 1e-8], True), ([1.0], [1.0, 2.0], False), ([1, 2], [1, 3], False), (b"x", b"x", True),
    ],
)  # fmt: skip
def test_two_values_are_alike_by_their_type(one, other, same):
    assert alike(one, other) is same
    assert alike(other, one) is same


# --- no pass without evidence -----------------------------------------------------------------------------


def test_no_rows_are_no_pass(served):
    nobody = Entities(rows=[], ids=[], origin="orders")
    report = check_parity(served, SERVICE, nobody, ledger=ledger_of(served.home))
    assert (report.status, report.reason) == (NOT_EVALUATED, "there was no entity to read")
    with pytest.raises(DataError, match="there was no entity to read"):
        enforce_parity(report)


def test_entities_that_nobody_knows_are_no_pass(served):
    strangers = Entities(
        rows=[{"shop": "x", "item": 9, "city_from": "x", "city_to": "x", "amount": 1.0, "at": midnight(1)}] * 5,
        ids=list("abcde"),
        origin="strangers",
    )
    report = check_parity(served, SERVICE, strangers, ledger=ledger_of(served.home))
    assert report.status is NOT_EVALUATED
    assert report.reason == "no value to compare of: sales, weather"


def test_a_view_that_was_never_materialised_needs_a_moment(tmp_path):
    location = deliveries(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"up to when feature view '(sales|stock|weather)' is online(.|\n)*fix:"):
        parity(location)
    with pytest.raises(ConfigError, match=r"as_of=.* has no time zone"):
        parity(location, as_of=midnight(1).replace(tzinfo=None))
    report = parity(location, as_of=midnight(1))
    assert report.status is FAIL
    assert feature(report, "visits").missing_online == report.rows


def test_what_cannot_be_sampled_is_explained(served):
    reader, store = OnlineReader(served, SERVICE), PartitionStore.under(served.home)
    with pytest.raises(ConfigError, match=r"no column 'order'\. Did you mean 'order_id'"):
        recent_entities(reader, store, "orders", entity="order")
    with pytest.raises(DataError, match="no sealed partition of 'orderz'"):
        recent_entities(reader, store, "orderz", entity="order_id")


# --- what was really served -------------------------------------------------------------------------------


def a_log(location: Location, moment: datetime, rows: int = 40) -> pa.Table:
    """What a caller got, answered when the online store stood at ``moment``, with everything known by then."""
    reader = OnlineReader(location, SERVICE)
    sample = recent_entities(reader, PartitionStore.under(location.home), "orders", entity="order_id", rows=rows)
    answers = reader.read(sample.rows, as_of=moment)
    table = pa.Table.from_pylist([{**sent, **answer} for sent, answer in zip(sample.rows, answers, strict=True)])
    table = table.append_column("order_id", pa.array(sample.ids))
    return table.append_column("event_time", pa.array([moment] * rows, pa.timestamp("us", tz="UTC")))


def test_logged_requests_are_held_against_what_was_known_then(served):
    """Rows of the last hour were known an hour later: training at that moment would not have read them."""
    reader, knowing = OnlineReader(served, SERVICE), midnight(3) + timedelta(hours=1)
    log = a_log(served, knowing)
    sample = logged_entities(reader, log, entity="order_id", event_time="event_time", rows=30, seed=1)
    assert len(sample.rows) == 30
    assert check_parity(served, SERVICE, sample, ledger=None).status is PASS

    early = log.set_column(
        log.column_names.index("event_time"),
        "event_time",
        pa.array([midnight(3)] * 40, pa.timestamp("us", tz="UTC")),
    )
    sample = logged_entities(reader, early, entity="order_id", event_time="event_time")
    assert check_parity(served, SERVICE, sample, ledger=None).status is PASS, "known exactly at midnight"
    earlier = pa.array([midnight(3) - timedelta(seconds=1)] * 40, pa.timestamp("us", tz="UTC"))
    early = log.set_column(log.column_names.index("event_time"), "event_time", earlier)
    sample = logged_entities(reader, early, entity="order_id", event_time="event_time")
    report = check_parity(served, SERVICE, sample, ledger=None)
    assert report.status is FAIL, "served from the future of its own moment"
    assert feature(report, "rain").differing > 30

    wrong = log.set_column(log.column_names.index("wind"), "wind", log["rain"])
    sample = logged_entities(reader, wrong, entity="order_id", event_time="event_time")
    assert [one.feature for one in check_parity(served, SERVICE, sample, ledger=None).failed] == ["wind"]


def test_a_log_that_cannot_be_used_is_explained(served):
    reader, log = OnlineReader(served, SERVICE), a_log(served, midnight(3))
    for table, words in (
        (log.drop_columns(["shop"]), "has no column 'shop'"),
        (log.select(["order_id", "event_time", "shop", "item", "city_from", "city_to", "amount", "at"]), "no feature"),
        (log.set_column(0, "shop", log["shop"]).drop_columns(["event_time"]), "has no column 'event_time'"),
    ):
        with pytest.raises(ConfigError, match=f"{words}(.|\n)*fix:"):
            logged_entities(reader, table, entity="order_id", event_time="event_time")
    naive = pa.array([datetime(2024, 3, 4)] * 40)  # noqa: DTZ001
    with pytest.raises(ConfigError, match="without a time zone"):
        logged_entities(
            reader,
            log.set_column(log.column_names.index("event_time"), "event_time", naive),
            entity="order_id",
            event_time="event_time",
        )


# --- the operator -----------------------------------------------------------------------------------------


class Links:
    """Stands where the running task instance stands, and keeps the links that are pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, object] = {}

    def xcom_push(self, key: str, value: object) -> None:
        self.pushed[key] = value


@pytest.fixture
def floor(served, monkeypatch) -> Location:
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(served.home))
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(served.repo)}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{served.home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    return served


def run(links: Links | None = None, **changes):
    arguments = {
        "model": "delivery",
        "version": "3",
        "service": SERVICE,
        "source_dataset": "orders",
        "entity": "order_id",
    }
    with DAG("d", schedule=None):
        operator = FeastCheckParityOperator(task_id="t", **{**arguments, **changes})
    return operator.execute({"ti": links or Links()})


def test_the_operator_says_little_and_writes_the_rest_down(floor):
    links = Links()
    manifest = run(links, sample_rows=50)
    assert manifest == {"service": SERVICE, "status": "PASS", "rows": 50, "features": 12, "unlike": {}}
    assert json.loads(json.dumps(manifest)) == manifest
    [fact] = ledger_of(floor.home).facts("parity", "delivery")
    assert fact.key == "3"
    assert ParityReport.model_validate(fact.payload).rows == 50
    [page] = (floor.home / "reports").iterdir()
    assert f"/mlops/reports/{page.name}" in links.pushed.values()
    assert "PASS" in page.read_text()


def test_the_operator_fails_after_the_report_is_written(floor):
    of_shop(floor, "s4", visits=Value(int64_val=-987654))
    links = Links()
    with pytest.raises(AirflowFailException, match=r"not what the model was trained on: visits(.|\n)*fix:") as raised:
        run(links)
    [fact] = ledger_of(floor.home).facts("parity", "delivery")
    assert ParityReport.model_validate(fact.payload).status is FAIL
    text = next((floor.home / "reports").iterdir()).read_text()
    assert "BLOCKED" in text
    assert "visits" in text
    assert links.pushed
    assert "-987654" not in text + str(raised.value), "no raw values"


def test_the_operator_reads_a_log(floor, tmp_path):
    pq.write_table(a_log(floor, midnight(3) + timedelta(hours=1)), tmp_path / "log.parquet")
    assert run(served=str(tmp_path / "log.parquet"), sample_rows=20)["rows"] == 20
    with pytest.raises(AirflowFailException, match=r"log of served features cannot be read(.|\n)*fix:"):
        run(served=str(tmp_path / "none.parquet"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": ""}, "is not a version"),
        ({"source_dataset": ""}, "source_dataset is empty"),
        ({"service": "delivery_v2"}, "Did you mean 'delivery_v1'"),
        ({"source_dataset": "order"}, "no sealed partition of 'order'"),
        ({"sample_rows": "none"}, "sample_rows='none' cannot be"),
        ({"sample_rows": 0}, "sample_rows=0 cannot be"),
        ({"max_unlike": "all"}, "max_unlike='all' is no share"),
        ({"as_of": "2024-03-03"}, "is not a moment"),
    ],
)
def test_what_cannot_be_checked_is_explained(floor, changes, words):
    with pytest.raises(AirflowFailException, match=words) as raised:
        run(**changes)
    assert "fix:" in str(raised.value)


def test_a_promotion_waits_for_it():
    """The task stands between the proof of the model and the move of the label, and lets nothing past but success."""
    dag = deploy_dag(made.pipeline())
    check, promote = dag.get_task("check_parity"), dag.get_task("promote")
    assert "verify" in check.upstream_task_ids
    assert "check_parity" in promote.upstream_task_ids
    assert promote.trigger_rule == "all_success"
    assert (check.service, check.source_dataset, check.sample_rows) == ("m_v1", "departures", 200)
