"""The operators of Great Expectations: what passes, what fails, what is put aside, and where results are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from mlflow import MlflowClient

from airflow_mlops.contracts import ValidationResult
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.validation import load_suite, validate
from airflow_mlops.engine.data.validation.publishing import quarantine
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.operators.data import SealPartitionOperator
from airflow_mlops.operators.gx import GXRunCheckpointOperator, GXValidateDataOperator
from tests.data_fixtures import KEY, landed, spoil
from tests.ledger_fixtures import postgres_server

DATA = f"lake/departures/{KEY}"


class TaskInstance:
    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def dag(code_path) -> DAG:
    dag = DAG("flight_delay.features", schedule=None)
    dag.fileloc = f"{code_path}/flight_delay.py"
    return dag


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Ledger:
    url = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps({"conn_type": "mlops_ledger", "host": url}))
    return Ledger(url)


@pytest.fixture
def run(home, dag, ledger):
    """Validate the landed day of departures."""

    def run(ti: TaskInstance | None = None, **changes: Any) -> Any:
        arguments = {
            "data": DATA,
            "suite": "flights.expectations:departures",
            "dataset": "departures",
            "key": KEY,
            **changes,
        }
        operator = GXValidateDataOperator(task_id=f"validate_{len(dag.tasks)}", dag=dag, home=str(home), **arguments)
        return operator.execute({"ti": ti or TaskInstance()})

    return run


@pytest.fixture
def half(home) -> Path:
    """A day of which half is missing: below the fewest rows that the suite allows."""
    return spoil(landed(home / "lake"), lambda frame: frame.iloc[::2])


# --- what passes and what fails ---------------------------------------------------------------------------


def test_validate_then_seal(home, dag, ledger, run):
    folder = landed(home / "lake")
    validated = run()
    assert json.loads(json.dumps(validated)) == validated
    assert (validated["rows"], validated["expectations"], validated["passed"]) == (902, 13, True)
    assert validated["failed"] == []
    seal = SealPartitionOperator(
        task_id="seal",
        dag=dag,
        home=str(home),
        dataset="departures",
        uri=str(folder),
        event_time="sched_dep_utc",
        validation=validated,
        key=KEY,
    )
    sealed = seal.execute({"ti": TaskInstance()})
    partition = PartitionStore.under(home).get("departures", KEY)
    assert json.loads(json.dumps(sealed)) == sealed
    assert sealed == {name: getattr(partition, name) for name in sealed}
    assert partition.suite_hash == validated["suite_hash"]
    assert seal.execute({"ti": TaskInstance()}) == sealed  # cleared and run again
    assert ledger.facts("partition", "departures")[0].payload["suite_hash"] == validated["suite_hash"]


def test_what_changed_since_validation_is_not_sealed(home, dag, ledger):
    folder = landed(home / "lake")
    validation = {"batch_hash": batch_hash(parquet_files(folder)), "suite_hash": "suite"}
    spoil(folder, lambda frame: frame.assign(dep_delay=0.0))
    seal = SealPartitionOperator(
        task_id="seal",
        dag=dag,
        home=str(home),
        dataset="departures",
        uri=str(folder),
        event_time="sched_dep_utc",
        validation=validation,
        key=KEY,
    )
    with pytest.raises(AirflowFailException, match="changed after they were validated"):
        seal.execute({"ti": TaskInstance()})


def test_what_is_blocked_fails_the_task_in_words(half, run):
    with pytest.raises(AirflowFailException, match="observed 451; bound: min_value=500"):
        run()


def test_a_suite_as_json_lies_beside_the_dag_file(home, ledger, tmp_path):
    landed(home / "lake")
    dag = DAG("d", schedule=None)
    dag.fileloc = str(tmp_path / "dag.py")
    suite = {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "flight_id"}}
    (tmp_path / "ids.json").write_text(json.dumps({"name": "ids", "expectations": [suite], "meta": {"version": "3"}}))
    operator = GXValidateDataOperator(task_id="validate", dag=dag, home=str(home), data=DATA, suite="ids.json")
    validated = operator.execute({"ti": TaskInstance()})
    assert (validated["suite"], validated["suite_version"], validated["passed"]) == ("ids", "3", True)
    [fact] = ledger.facts("validation", "ids")  # no dataset was named
    assert fact.key == ""


# --- on_failure -------------------------------------------------------------------------------------------


def test_warn_lets_through_and_says_so_in_the_ledger(half, run, ledger):
    validated = run(on_failure="warn")
    assert validated["passed"] is False
    assert [outcome["observed"] for outcome in validated["failed"]] == [451]
    [fact] = ledger.facts("validation_overridden", "departures", key=KEY)
    assert fact.payload["batch_hash"] == validated["batch_hash"]


@pytest.mark.parametrize("on_failure", ["warn", "quarantine"])
def test_what_could_not_be_checked_fails_whatever_on_failure_says(on_failure, home, run, ledger):
    spoil(landed(home / "lake"), lambda frame: frame.rename(columns={"distance": "dist"}))
    with pytest.raises(AirflowFailException, match="UNKNOWN, there is no column 'distance'"):
        run(on_failure=on_failure)
    assert not ledger.facts("validation_overridden")
    assert not (home / "quarantine").exists()


@pytest.mark.parametrize("on_failure", ["fail", "warn", "quarantine"])
def test_an_empty_suite_fails_whatever_on_failure_says(on_failure, home, run, tmp_path):
    landed(home / "lake")
    (tmp_path / "empty.json").write_text('{"expectations": []}')
    with pytest.raises(AirflowFailException, match="checks nothing"):
        run(on_failure=on_failure, suite=str(tmp_path / "empty.json"))


def test_quarantine_puts_the_batch_aside_and_skips(half, home, run, ledger):
    with pytest.raises(AirflowSkipException, match="observed 451; bound: min_value=500"):
        run(on_failure="quarantine")
    [fact] = ledger.facts("quarantine", "departures", key=KEY)
    folder = home / "quarantine" / "departures" / KEY / fact.payload["batch_hash"][:16]
    assert fact.payload["uri"] == str(folder)
    [file] = half.glob("*.parquet")
    assert (folder / file.name).read_bytes() == file.read_bytes()
    result = ValidationResult.from_json((folder / "result.json").read_text())
    assert result.blocked
    assert batch_hash(parquet_files(folder)) == result.batch_hash
    with pytest.raises(AirflowSkipException):  # cleared and run again
        run(on_failure="quarantine")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_quarantine_that_breaks_off_leaves_nothing(half, home, code_path):
    result = validate(parquet_files(half), load_suite("flights.expectations:departures", code_path), batch="b")
    files = [*parquet_files(half), half / "not-there.parquet"]
    with pytest.raises(Exception, match="not there"):
        quarantine(result, files, home / "quarantine")
    assert list((home / "quarantine").iterdir()) == []


def test_a_day_that_passes_is_not_put_aside(home, run):
    landed(home / "lake")
    assert run(on_failure="quarantine")["passed"] is True
    assert not (home / "quarantine").exists()


NONSENSE = {
    "on_failure": ({"on_failure": "wran"}, "Did you mean 'warn'"),
    "files and a table": ({"table": "t", "sql_conn_id": "c"}, "files or a table, not both"),
    "a table without its database": ({"data": "", "table": "t"}, "belong together"),
    "a database without a table": ({"sql_conn_id": "c"}, "belong together"),
    "a table on pandas": ({"data": "", "table": "t", "sql_conn_id": "c", "engine": "pandas"}, "by its own database"),
    "a table put aside": (
        {"data": "", "table": "t", "sql_conn_id": "c", "on_failure": "quarantine"},
        "cannot be put aside",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_when_the_dag_is_parsed(arguments, said, run):
    with pytest.raises(ConfigError, match=said):
        run(**arguments)


def test_neither_files_nor_a_table(run):
    with pytest.raises(AirflowFailException, match="data is empty"):
        run(data="")


# --- where results are written ----------------------------------------------------------------------------


def test_every_result_is_a_fact_in_the_ledger(home, run, ledger):
    folder = landed(home / "lake")
    run()
    spoil(folder, lambda frame: frame.iloc[::2])
    with pytest.raises(AirflowFailException):
        run()
    bad, good = ledger.facts("validation", "departures", key=KEY)
    results = [ValidationResult.model_validate(fact.payload) for fact in (good, bad)]
    assert [result.blocked for result in results] == [False, True]
    assert results[1].failed[0].observed == 451


def test_a_ledger_that_is_down_is_tried_again(home, run, monkeypatch):
    landed(home / "lake")
    down = {"conn_type": "mlops_ledger", "host": "postgresql+psycopg2://u:hunter2@127.0.0.1:1/d"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(down))
    with pytest.raises(TransientError):
        run()


def test_the_report_is_there_and_linked_also_when_the_task_fails(half, home, run):
    ti = TaskInstance()
    with pytest.raises(AirflowFailException):
        run(ti)
    url = ti.pushed["gx_validation_report_link"]
    [page] = (home / "reports").iterdir()
    assert url.endswith(f"/mlops/reports/{page.name}")
    html = page.read_text()
    assert "expect_table_row_count_to_be_between" in html
    assert "451" in html


def test_an_open_run_of_mlflow_gets_the_result(home, run, tmp_path, monkeypatch):
    landed(home / "lake")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": uri}))
    client = MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    run(mlflow_run_id=run_id)
    name = "flights.expectations-departures"
    assert client.get_run(run_id).data.metrics == {f"validation.{name}.failed": 0, f"validation.{name}.rows": 902}
    artifact = client.download_artifacts(run_id, f"validation/{name}.json", str(tmp_path))
    assert ValidationResult.from_json(Path(artifact).read_text()).rows == 902


def test_ids_of_failing_rows_when_asked_for(home, run):
    spoil(landed(home / "lake"), lambda frame: frame.assign(distance=frame["distance"].where(frame.index > 1, -1.0)))
    with pytest.raises(AirflowFailException, match=r"2 of 902 rows fail; .*; rows 2013\d+-\w+-\w+, 2013\d+-\w+-\w+"):
        run(row_id_column="flight_id")


def test_data_docs_of_the_library_show_no_value(home, run, tmp_path):
    spoil(landed(home / "lake"), lambda frame: frame.assign(carrier=frame["carrier"].where(frame.index > 1, "SECRET")))
    with pytest.raises(AirflowFailException):
        run(data_docs=str(tmp_path / "docs"))
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert (tmp_path / "docs" / "index.html") in pages
    texts = [page.read_text() for page in pages]
    assert any("flights.expectations-departures" in text for text in texts)
    assert not any("SECRET" in text for text in texts)


def test_a_table_of_postgresql_is_validated_in_place(home, run, ledger, monkeypatch):
    frame = pd.read_parquet(landed(home / "lake"))
    engine = sa.create_engine(postgres_server())
    frame.to_sql("departures_of_a_day", engine, index=False, if_exists="replace")
    engine.dispose()
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", postgres_server().replace("postgresql+psycopg2://", "postgres://"))
    validated = run(data="", table="departures_of_a_day", sql_conn_id="lake")
    assert (validated["rows"], validated["failed"]) == (902, [])
    assert ledger.facts("validation", "departures")[0].payload["engine"] == "postgresql"
    with pytest.raises(AirflowFailException, match=r"Did you mean 'departures_of_a_day'"):
        run(data="", table="departure_of_a_day", sql_conn_id="lake")
    with pytest.raises(AirflowFailException, match="no Airflow connection 'sea'"):
        run(data="", table="departures_of_a_day", sql_conn_id="sea")
    with pytest.raises(AirflowFailException, match="has type 'mlops_ledger', not 'postgres'"):
        run(data="", table="departures_of_a_day", sql_conn_id="mlops_ledger_default")


# --- checkpoints of an existing project -------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, home) -> Path:
    """A project as Great Expectations itself makes it: a file context, files by month, one checkpoint."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    months = tmp_path / "months"
    months.mkdir()
    table = pq.read_table(landed(home / "lake"))
    pq.write_table(table, months / "2013-01.parquet")
    pq.write_table(table.slice(0, 10), months / "2013-02.parquet")
    context = gx.get_context(mode="file", project_root_dir=tmp_path / "project")
    asset = context.data_sources.add_pandas_filesystem("lake", base_directory=months).add_parquet_asset("flights")
    monthly = asset.add_batch_definition_monthly("monthly", regex=r"(?P<year>\d{4})-(?P<month>\d{2})\.parquet")
    suite = context.suites.add(
        gx.ExpectationSuite(
            "monthly",
            [
                gxe.ExpectTableRowCountToBeBetween(min_value={"$PARAMETER": "fewest"}),
                gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
                gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA"], mostly=0.01),
            ],
            meta={"version": "2"},
        )
    )
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="m", data=monthly, suite=suite))
    context.checkpoints.add(gx.Checkpoint(name="flights_monthly", validation_definitions=[definition]))
    return tmp_path / "project"


@pytest.fixture
def checkpoint(project, home, dag, ledger):
    def checkpoint(ti: TaskInstance | None = None, **changes: Any) -> Any:
        arguments = {
            "project": str(project),
            "checkpoint": "flights_monthly",
            "batch_parameters": {"year": "2013", "month": "01"},
            "expectation_parameters": {"fewest": 100},
            **changes,
        }
        operator = GXRunCheckpointOperator(task_id=f"check_{len(dag.tasks)}", dag=dag, home=str(home), **arguments)
        return operator.execute({"ti": ti or TaskInstance()})

    return checkpoint


def test_a_checkpoint_of_an_existing_project(checkpoint, ledger, home):
    ti = TaskInstance()
    checked = checkpoint(ti)
    assert json.loads(json.dumps(checked)) == checked
    assert (checked["suite"], checked["suite_version"], checked["rows"]) == ("monthly", "2", 902)
    assert (checked["expectations"], checked["failed"], checked["passed"]) == (3, [], True)
    assert ValidationResult.model_validate(ledger.facts("validation", "monthly")[0].payload).engine == "checkpoint"
    assert ti.pushed["gx_validation_report_link"].endswith(next((home / "reports").iterdir()).name)

    february = {"batch_parameters": {"year": "2013", "month": "02"}}
    with pytest.raises(AirflowFailException, match=r"BLOCK expect_table_row_count_to_be_between: observed 10"):
        checkpoint(**february)
    warned = checkpoint(**february, on_failure="warn")
    assert warned["passed"] is False
    assert warned["batch_hash"] != checked["batch_hash"]


WRONG = {
    "the name": ({"checkpoint": "flight_monthly"}, "Did you mean 'flights_monthly'"),
    "the folder": ({"project": "/nowhere"}, "no Great Expectations project"),
    "a parameter": ({"expectation_parameters": None}, "could not run checkpoint"),
    "a batch": ({"batch_parameters": {"year": "1999"}}, "could not run checkpoint"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_checkpoint_is_said_in_words(arguments, said, checkpoint):
    with pytest.raises(AirflowFailException, match=said) as refused:
        checkpoint(**arguments)
    assert "Traceback" not in str(refused.value)


def test_no_project_is_made_where_there_is_none(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AirflowFailException, match="no Great Expectations project"):
        checkpoint(project=str(tmp_path / "empty"))
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(ConfigError, match="cannot be put aside"):
        checkpoint(on_failure="quarantine")
