"""Who is told what: owner, notifiers, deadlines and resources of a pipeline, on the DAGs that come out."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from airflow.sdk import DAG, BaseNotifier, BaseOperator
from airflow.sdk.exceptions import AirflowSensorTimeout
from airflow.sdk.execution_time.task_runner import _run_task_state_change_callbacks
from airflow.sdk.log import mask_secret
from airflow.serialization.serialized_objects import DagSerialization

from airflow_mlops import Deploy, FeatureService, Resources, Trainer
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.serving.deployments import make_pin, pointer_name
from airflow_mlops.exceptions import ConfigError, DataError, GateError, MlopsError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import failing_clearly
from tests.unit.test_pipeline import pipeline, source

sys.path.append(str(Path(__file__).parent.parent / "e2e" / "dags"))
from file_notifier import FileNotifier

OWNER = "flights@example.com"


class TaskInstance:
    dag_id, task_id, run_id = "m.features", "departures.check", "scheduled__2013-01-15"


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """Returns what was written, a dict a notice."""

    def read() -> list[dict[str, str]]:
        file = tmp_path / "told.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    read.notifier = FileNotifier(str(tmp_path / "told.jsonl"))  # type: ignore[attr-defined]
    return read


def fail(task: BaseOperator, error: Exception) -> None:
    """Let a task fail as the task runner does: with the error of its operator, and its callbacks after it."""
    try:
        with failing_clearly():
            raise error
    except Exception as raised:
        context: Any = {"exception": raised, "ti": TaskInstance(), "dag": task.dag}
        _run_task_state_change_callbacks(task, "on_failure_callback", context, structlog.get_logger())


# --- failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dag", "task", "error", "event"),
    [
        ("m_features", "departures.check", DataError("Half is missing.", "902 rows", "Ask."), "partition_blocked"),
        ("m_features", "departures.validate", DataError("1 of 13 do not hold.", "902", "Ask."), "partition_blocked"),
        ("m_features", "departures.check", TransientError("The ledger is down.", "db", "Wait."), "task_failed"),
        ("m_features", "compute_features", DataError("The past is missing.", "2013", "Backfill."), "task_failed"),
        ("m_train", "judge", GateError("Version 2 failed 1 of 3 checks.", "auc", "Look."), "challenger_rejected"),
        ("m_train", "judge", TransientError("MLflow is down.", "http", "Wait."), "task_failed"),
        ("m_train", "train", ConfigError("No such function.", "x:y", "Write it."), "task_failed"),
    ],
)  # fmt: skip
def test_a_failure_is_told_in_the_words_of_its_error(told, dag: str, task: str, error: MlopsError, event: str):
    made = pipeline(notify=[told.notifier], owner=OWNER).dags()[dag]
    fail(made.get_task(task), error)
    [notice] = told()
    assert notice == {
        "event": event,
        "model": "m",
        "owner": OWNER,
        "headline": error.headline,
        "detail": f"task m.features.departures.check, run scheduled__2013-01-15\n{error.detail}",
        "hint": error.hint,
        "text": f"m: {error.headline} {error.hint}",
    }


def test_an_error_of_somebody_else_and_none_at_all_are_told(told):
    task = pipeline(notify=[told.notifier]).dags()["m_features"].get_task("apply")
    fail(task, ValueError("wrong\nand more"))
    _run_task_state_change_callbacks(task, "on_failure_callback", {"dag": task.dag}, structlog.get_logger())
    assert [notice["event"] for notice in told()] == ["task_failed"] * 2
    assert told()[0]["headline"] == "m.features.departures.check failed: wrong"
    assert "See the task's log" in told()[0]["hint"]
    assert told()[1]["headline"] == "a task failed: it ended without an error of its own"


def test_no_secret_is_told(told):
    mask_secret("planted-with-friends")  # no part of it is another test's secret: masks outlive tests
    task = pipeline(notify=[told.notifier]).dags()["m_features"].get_task("apply")
    fail(task, ValueError("cannot log in with planted-with-friends"))
    assert told()[0]["headline"].endswith("cannot log in with ***")
    assert "planted-with" not in told()[0]["text"]


def test_a_wait_that_timed_out_is_told_in_its_words(told):
    task = pipeline(notify=[told.notifier]).dags()["m_features"].get_task("departures.wait")
    fail(task, AirflowSensorTimeout("Gave up waiting after 5 s.\n  where: lake/x\n  seen:  nothing\n  fix:   See why."))
    [notice] = told()
    assert (notice["headline"], notice["hint"]) == ("Gave up waiting after 5 s.", "See why.")
    assert notice["detail"].endswith("lake/x\n  seen:  nothing")


def test_one_who_cannot_be_told_keeps_nobody_else_from_it(told, caplog):
    def broken(context: Any) -> None:
        raise RuntimeError("no network")

    heard: list[str] = []
    notify = [broken, told.notifier, lambda context: heard.append(context["notice"]["headline"])]
    task = pipeline(notify=notify).dags()["m_features"].get_task("apply")
    fail(task, DataError("One."))
    fail(task, DataError("Two."))
    assert [notice["headline"] for notice in told()] == heard == ["One.", "Two."], "templates are rendered each time"
    assert "broken was not told: One." in caplog.text


def test_without_notifiers_nothing_is_called():
    for dag in pipeline().dags().values():
        assert not [task.task_id for task in dag.tasks if task.on_failure_callback]
        assert dag.deadline is None or not dag.deadline


# --- deadlines --------------------------------------------------------------------------------------------


def function(context: Any) -> None:
    """A function that could be told."""


class Async(BaseNotifier):
    """Can only be awaited."""

    heard: list[str] = []

    async def async_notify(self, context: Any) -> None:
        """Keep the headline."""
        self.heard.append(context["notice"]["headline"])


def test_a_missed_deadline_is_told_by_notifiers_that_were_made_again(told):
    """What the DAG carries goes through the serialized DAG to the triggerer, which calls it."""
    made = pipeline(notify=[told.notifier, function, Async()], deadlines={"features": "5h"}).dags()
    assert not made["m_train"].deadline
    [alert] = (
        made["m_features"].deadline if isinstance(made["m_features"].deadline, list) else [made["m_features"].deadline]
    )
    assert alert.interval == timedelta(hours=5)
    DagSerialization.to_dict(made["m_features"])
    kwargs = json.loads(json.dumps(alert.callback.kwargs))
    assert alert.callback.path == "airflow_mlops.notifications.tell_of_missed_deadline"
    from airflow_mlops.notifications import tell_of_missed_deadline

    run = {
        "dag_run_id": "scheduled__1",
        "state": "running",
        "queued_at": "2013-01-16T00:00:00Z",
        "dag_id": "m.features",
    }
    asyncio.run(tell_of_missed_deadline(**kwargs, context={"dag_run": run, "deadline": {"id": "1"}}))
    [notice] = told()
    assert notice["event"] == "deadline_missed"
    assert notice["headline"] == "m.features is not done 5h after it was queued."
    assert notice["detail"] == "run scheduled__1, running, queued at 2013-01-16T00:00:00Z"
    assert notice["text"].startswith("m: m.features is not done 5h")
    assert Async.heard == [notice["headline"]]


class Forgetful(BaseNotifier):
    """Keeps no attribute of its argument's name."""

    def __init__(self, channel: str) -> None:
        super().__init__()
        self.room = channel


class Live(BaseNotifier):
    """Keeps a client."""

    def __init__(self, client: object) -> None:
        super().__init__()
        self.client = client


@pytest.mark.parametrize(
    ("notifier", "says"),
    [
        (Forgetful("ops"), r"Forgetful cannot be told of missed deadlines(.|\n)*'channel' is no attribute"),
        (Live(object()), r"Live cannot be told(.|\n)*not JSON"),
        (lambda context: None, r"cannot be told(.|\n)*inside a function"),
    ],
)
def test_who_cannot_be_told_of_deadlines_is_refused_when_the_file_is_parsed(notifier: Any, says: str):
    pipeline(notify=[notifier]).dags()  # of failures it can be told
    with pytest.raises(ConfigError, match=says):
        pipeline(notify=[notifier], deadlines={"train": "1h"}).dags()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: pipeline(deadlines={"train": "1h"}), "nobody is told when one is missed"),
        (lambda: pipeline(notify=[function], deadlines={"trian": "1h"}), "'features', 'train', 'deploy'"),
        (lambda: pipeline(notify=[function], deadlines={"train": "soon"}), "'soon' is not a duration"),
        (lambda: pipeline(notify=["ops@example.com"]), "notify.0: Input should be callable"),
        (lambda: pipeline(owners="me"), "Did you mean 'owner'?"),
        (lambda: Resources(que="gpu"), "Did you mean 'queue'?"),
        (lambda: Resources(retries=-1), "retries"),
        (lambda: Resources(pool_slots=0), "pool_slots"),
    ],
)
def test_a_mistake_is_explained(build: Any, says: str):
    with pytest.raises(ConfigError) as caught:
        build()
    assert says in str(caught.value)


# --- pins -------------------------------------------------------------------------------------------------


def test_a_pin_that_is_about_to_run_out_is_told_once(told, home, monkeypatch):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT",
        json.dumps({"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}),
    )
    dags = pipeline(notify=[told.notifier], owner=OWNER).dags()
    task = dags["m_features"].get_task("remind_of_pin")
    assert dags["m_train"].has_task("remind_of_pin")
    ledger = LedgerHook(task.ledger_conn_id).get_conn()
    server = "tf_serving_default"
    state = Deployment(server=server, model="m", stable=3, pin=make_pin(3, "ann", "it is quiet", None))
    ledger.move(pointer_name(server, "m"), lambda _: state.model_dump(mode="json"))
    assert task.execute({"ti": TaskInstance()})["told"] is False, "it holds until it is lifted"
    for days, answers in ((5, [False, False]), (1, [True, False])):
        until = datetime.now(UTC) + timedelta(days=days)
        ending = state.model_copy(update={"pin": make_pin(3, "ann", "it is quiet", until)})
        ledger.move(pointer_name(server, "m"), lambda _, ending=ending: ending.model_dump(mode="json"))
        assert [task.execute({"ti": TaskInstance()})["told"] for _ in answers] == answers
    [notice] = told()
    assert (notice["event"], notice["owner"]) == ("pin_ends", OWNER)
    assert notice["headline"] == "The pin of version 3 of 'm' on 'tf_serving_default' is about to run out."
    assert "pinned by ann" in notice["detail"]


def test_without_notifiers_nobody_looks_at_pins():
    assert not pipeline().dags()["m_features"].has_task("remind_of_pin")
    assert not pipeline().dags()["m_train"].has_task("remind_of_pin")


# --- owner and resources ----------------------------------------------------------------------------------


def test_owner_is_on_tasks_and_on_the_models_assets():
    dags = pipeline(owner=OWNER).dags()
    assert {task.owner for dag in dags.values() for task in dag.tasks} == {OWNER}
    outlets = [outlet for dag in dags.values() for task in dag.tasks for outlet in task.outlets]
    assert {asset.name: asset.extra for asset in outlets if asset.name.startswith("m.")} == {
        "m.features": {"owner": OWNER},
        "m.challenger": {"owner": OWNER},
        "m.champion": {"owner": OWNER},
    }
    assert all(not asset.extra for asset in outlets if not asset.name.startswith("m.")), "feeds are of no one model"


class Pod:
    """As opaque as an object of Kubernetes."""


def test_resources_are_on_the_tasks_of_their_stage_and_on_no_other():
    pod = Pod()
    dags = pipeline(
        source=source(resources=Resources(pool="data")),
        features=FeatureService(
            "m_v1",
            transform="code:compute",
            suite="suites:snapshot",
            resources=Resources(queue="big", executor_config={"pod_override": pod}),
        ),
        train=Trainer("code:build", window="60d", resources=Resources(queue="gpu", retries=0, priority_weight=7)),
        deploy=Deploy(resources=Resources(pool="serving", pool_slots=2)),
    ).dags()

    def having(**wanted: Any) -> set[str]:
        return {
            task.task_id
            for dag in dags.values()
            for task in dag.tasks
            if all(
                (getattr(task, name, None) or getattr(task, "partial_kwargs", {}).get(name)) == value
                for name, value in wanted.items()
            )
        }

    assert having(pool="data") == {f"departures.{task}" for task in ("stage", "validate", "check", "seal")}
    assert having(queue="big") == {"compute_features", "materialize", "snapshot"}
    assert having(executor_config={"pod_override": pod}) == having(queue="big")
    assert having(queue="gpu", priority_weight=7) == {"train", "evaluate", "rerun"}
    assert dags["m_train"].get_task("train").retries == 0
    assert dags["m_train"].get_task("judge").retries == 2
    assert having(pool="serving", pool_slots=2) == {"publish"}


def test_nobody_owns_what_has_airflows_own_default():
    from airflow_mlops.operators.base import owner_of

    with DAG("d", schedule=None):
        assert owner_of(BaseOperator(task_id="a")) == ""
        assert owner_of(BaseOperator(task_id="b", owner=OWNER)) == OWNER


def test_a_providers_notifier_is_made_again_as_it_was():
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    from airflow_mlops.notifications import _made, _recipe

    mail = SmtpNotifier(to="ops@example.com", subject="[{{ notice.event }}] {{ notice.model }}", html_content="x")
    again = _made(json.loads(json.dumps(_recipe(mail))))
    assert isinstance(again, SmtpNotifier)
    assert {name: getattr(again, name) for name in again.template_fields} == {
        name: getattr(mail, name) for name in mail.template_fields
    }
