"""What a user sees who mistypes a configuration."""

from __future__ import annotations

from datetime import date

import pytest
from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID

from airflow_mlops import (
    BatchPredict,
    Checks,
    FeatureService,
    Gate,
    Label,
    ModelPipeline,
    Partitions,
    Reconcile,
    Rows,
    Slice,
    SQLSource,
    Trainer,
)
from airflow_mlops.exceptions import ConfigError

START = date(2013, 1, 1)


def source(name: str = "departures", **kwargs) -> Partitions:
    return Partitions(f"lake/{name}", event_time="at", suite="suites:all", start=START, **kwargs)


def table(**kwargs) -> SQLSource:
    return SQLSource("shop_db", **{"event_time": "at", "suite": "suites:all", "start": START, **kwargs})


def pipeline(**changes) -> ModelPipeline:
    return ModelPipeline(
        **{
            "model": "m",
            "source": source(),
            "entity": "id",
            "label": Label("late", source=source("arrivals"), matures_after="1d"),
            "features": FeatureService("m_v1", transform="code:compute", suite="suites:snapshot"),
            "train": Trainer("code:build", window="60d"),
            "gates": [Gate("auc", min=0.6)],
            **changes,
        }
    )


def test_dataset_takes_its_name_from_the_last_part_of_the_uri():
    assert source().dataset == "departures"
    assert source(dataset="flights").dataset == "flights"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: pipeline(lable="x"), "unknown key 'lable'. Did you mean 'label'?"),
        (lambda: Partitions("a", event_tine="at", suite="s:a", start=START), "Did you mean 'event_time'?"),
        (lambda: Partitions("postgresql+psycopg2://u:s@db/x", event_time="at", suite="s:a", start=START), "SQLSource"),
        (lambda: source(reader={"delimm": ";"}), "Files have no option 'delimm'. Did you mean 'delim'?"),
        (lambda: source(layout="{key}/*.json", reader={"delim": ";"}), "json files have no option 'delim'"),
        (
            lambda: source(layout="{key}/*.csv.gz", reader={"skp": 1}),
            "csv files have no option 'skp'. Did you mean 'skip'?",
        ),
        (lambda: source(layout="{key}/*.parquet", reader={"skip": 1}), "parquet files have no option 'skip'"),
        (lambda: Trainer("code:build", window="60d", epoch=3), "Did you mean 'epochs'?"),
        (lambda: Trainer("code:build", window="60d", epochs="3"), "epochs: Input should be a valid integer"),
        (lambda: Trainer("code:build", window="60d", epochs=0), "epochs: Input should be greater than 0"),
        (lambda: Trainer("code.build", window="60d"), "'code.build' does not name a function"),
        (lambda: Trainer("code:build", window="60 days"), "'60 days' is not a duration"),
        (lambda: Trainer("code:build", window="10d"), "leaves nothing to train on"),
        (lambda: source(end=date(2012, 1, 1)), "end before they start"),
        (lambda: source(checks=Checks(slice=["carrier"])), "Did you mean 'slices'?"),
        (lambda: source(checks=Checks(slices="carrier")), "'slices' is a list: write ['carrier']"),
        (lambda: source(lands_within="soon"), "'soon' is not a duration"),
        (lambda: Trainer("code:build", window="60d", split="entity"), "does not say one clear thing"),
        (lambda: Trainer("code:build", window="60d", split="random"), "split: Input should be 'time' or 'entity'"),
        (lambda: table(tabel="orders"), "unknown key 'tabel'. Did you mean 'table'?"),
        (table, "names no table"),
        (lambda: table(table="orders", query="{start} {end}"), "names both a table and a query"),
        (lambda: table(query="SELECT 1", dataset="orders"), "has no {start} and no {end}: it would read the whole"),
        (lambda: table(query="SELECT {start}", dataset="orders"), "has no {end}: it would read"),
        (lambda: table(query="SELECT {start} {end}"), "A query gives its dataset no name"),
        (lambda: table(query="SELECT '{start}' {end}", dataset="o"), "'{start}' in quotes"),
        (lambda: table(query="{start} {end}", columns=["a"], dataset="o"), "says twice which columns there are"),
        (lambda: table(table="orders", columns=["a_t"], event_time="at"), "leaves out 'at'. Did you mean 'a_t'?"),
        (lambda: table(table="orders", columns=["at"], updated_at="changed"), "leaves out 'changed'"),
        (lambda: table(table="order lines"), "'order lines' cannot be a name"),
        (lambda: table(table="orders", complete_after="soon"), "'soon' is not a duration"),
        (lambda: table(table="orders", naive_times="Europe/Berln"), "Did you mean 'Europe/Berlin'?"),
        (lambda: pipeline(model="my model"), "'my model' cannot be a name"),
        (
            lambda: pipeline(label=Label("late", source=source("arrivals"), problem="regresion")),
            "Did you mean 'regression'?",
        ),
        (
            lambda: pipeline(label=Label("late", source=source("arrivals"), problem="regression")),
            "A regression has no metric 'auc'",
        ),
        (lambda: Label("rank", source=source("a"), problem="ranking"), "does not say one clear thing"),
        (lambda: Label("rank", source=source("a"), group="search"), "does not say one clear thing"),
        (lambda: pipeline(label=Label("x", source=source(), matures_after="1d")), "are the same dataset"),
        (
            lambda: pipeline(
                features=FeatureService(
                    "m_v1", transform="code:compute", suite="s:a", sources=[source("weather"), source("arrivals")]
                )
            ),
            "several feeds of dataset 'arrivals'",
        ),
        (lambda: pipeline(reconcile=[Reconcile("arivals", "departures", on=["id"])]), "Did you mean 'arrivals'?"),
        (lambda: pipeline(reconcile=[Reconcile("arrivals", "departures", on=["id"])] * 2), "are of the same pair"),
        (lambda: Reconcile("a", "b", on=[]), "on: "),
        (lambda: Reconcile("a", "b", on=["id"], min_match=1.2), "min_match: "),
        (
            lambda: pipeline(
                features=FeatureService("m_v1", transform="c:c", suite="s:a", rows=[Rows("view", "weather")])
            ),
            "no feed of dataset 'weather'",
        ),
        (lambda: Gate("auc", min=0.9, max=0.5), "No model ever passes Gate('auc')"),
        (lambda: Rows("view", "a", ratio=0), "ratio: "),
        (lambda: Label("late"), "Nothing says since when the label 'late' is known"),
        (lambda: Gate("acu", min=0.5), "Did you mean 'auc'?"),
        (lambda: Gate("auc"), "does not say one clear thing"),
        (lambda: Gate("auc", min=0.5, vs="champion"), "does not say one clear thing"),
        (lambda: Gate("auc", max_drop=0.1), "does not say one clear thing"),
        (lambda: Gate("auc", vs="champion", max_drop=0.1, by=Slice("carrier")), "does not say one clear thing"),
        (lambda: Gate("auc", vs="human", max_drop=0.1), "vs is 'champion' or 'baseline'"),
        (
            lambda: pipeline(source=source(end=date(2013, 1, 14))),
            "never reach far enough to train on anything.\n  where: they are there from 2013-01-01 to 2013-01-15, of",
        ),
        (lambda: ModelPipeline(model="m"), "'source' is missing"),
    ],
)
def test_a_mistake_is_explained(build, says):
    with pytest.raises(ConfigError) as caught:
        build()
    assert says in str(caught.value)


def test_error_reads_headline_where_fix():
    with pytest.raises(ConfigError) as caught:
        source(end=date(2012, 1, 1))
    assert str(caught.value).splitlines() == [
        "Partitions of 'departures' end before they start.",
        "  where: start=2013-01-01, end=2012-01-01",
        "  fix:   Swap them.",
    ]


@pytest.fixture(scope="module")
def example_dags():
    import flight_delay

    return flight_delay.flight_delay.dags()


def test_every_form_can_be_sent_as_it_opens(example_dags):
    """Airflow's form keeps its button disabled while a text that may not be null is empty."""
    for dag in example_dags.values():
        for name, param in dag.params.items():
            value = param.resolve()
            kinds = param.schema.get("type", [])
            assert value != "", f"{dag.dag_id}: {name}"
            assert value is not None or "null" in kinds, f"{dag.dag_id}: {name}"
            assert param.schema.get("title"), f"{dag.dag_id}: {name}"


def test_the_list_of_dags_says_what_each_does(example_dags):
    for dag in example_dags.values():
        assert 20 < len(dag.description or "") < 200, dag.dag_id
        assert "<model>" not in dag.description
        assert "\n" not in dag.description


def test_a_table_is_a_feed_as_files_are():
    """One table may be two feeds: what was ordered, and what became of it."""
    orders, returned = table(table="shop.orders"), table(table="shop.orders", event_time="decided", dataset="returned")
    made = pipeline(source=orders, label=Label("late", source=returned))
    assert [feed.dataset for feed in made.feeds] == ["orders", "returned"]
    features = FeatureService("m_v1", transform="code:compute", suite="suites:snapshot", sources=[table(table="x")])
    assert [feed.dataset for feed in pipeline(features=features).feeds] == ["departures", "arrivals", "x"]


def test_the_process_of_a_task_builds_the_dag_of_that_task(monkeypatch):
    """Of a fleet in one file, each task would build the DAGs of all models else."""
    one, other = pipeline(), pipeline(model="n")
    assert {"m_features", "m_train", "m_deploy"} <= set(one.dags())
    monkeypatch.setenv(_AIRFLOW_PARSING_CONTEXT_DAG_ID, "m.train")
    dags = one.dags()
    assert list(dags) == ["m_train"]
    assert "judge" in dags["m_train"].task_ids
    assert dags["m_features"].dag_id == "m.features", "a DAG file may name another one"
    with pytest.raises(KeyError, match="m_fetures"):
        dags["m_fetures"]
    assert list(other.dags()) == []


def test_batch_prediction_is_off_unless_it_is_asked_for():
    assert "m_batch_predict" not in pipeline().dags()
    after_features = pipeline(batch=BatchPredict(columns=["city"], suite="suites:predictions")).dags()[
        "m_batch_predict"
    ]
    [task] = after_features.tasks
    assert (task.task_type, task.alias, task.source_dataset) == ("TensorFlowPredictOperator", "champion", "departures")
    assert [asset.name for asset in task.outlets] == ["m.predictions.partitions"]
    assert after_features.timetable.asset_condition.name == "m.features"
    by_cron = pipeline(batch=BatchPredict(through="server", cron="0 6 * * *")).dags()["m_batch_predict"]
    [task] = by_cron.tasks
    assert (task.task_type, task.version_label) == ("TFServingPredictOperator", "stable")
    assert by_cron.timetable.run_offset == -1
    with pytest.raises(ConfigError, match="batch of 'm' is True"):
        pipeline(batch=True)
    with pytest.raises(ConfigError, match="Did you mean 'columns'"):
        BatchPredict(colums=["city"])


def test_what_is_pressed_in_an_emergency_waits_for_nobody_to_unpause_it():
    dags = pipeline().dags()
    pressed = {dag.dag_id for dag in dags.values() if dag.is_paused_upon_creation is False}
    assert pressed == {"m.runbook", "m.rollback", "m.exclude", "m.roll_through"}
