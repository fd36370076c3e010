"""What every operator and sensor must keep: sktime's idea of contract tests, on Airflow's rules."""

from __future__ import annotations

import ast
import inspect
import textwrap
from datetime import timedelta

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_mlops.exceptions import ConfigError
from tests.contract.classes import OPERATORS, SENSORS, example_arguments, parameters

BOTH = [*OPERATORS, *SENSORS]
PREFIXES = (
    *("GX", "Feast", "TensorFlow", "MLflow", "TFServing"),
    *(
        "SealPartition",
        "HaltModel",
        "ResumeModel",
        "ExcludeWindow",
        "LiftExclusion",
        "SweepHome",
        "CheckPartition",
        "ReconcilePartitions",
        "RemindOfPin",
        "StagePartition",
        "ExtractPartition",
        "PartitionEnd",
        "PlanHistory",
        "LoadHistory",
        "ReportHistory",
        "PlanBackfill",
        "BeginBackfill",
        "ProbeBackfill",
        "RunBackfill",
        "VerifyBackfill",
        "PartitionArrival",
        "RecordAnnouncements",
        "TrainingData",
        "DecideTraining",
        "AdmitTraining",
        "CheckServedAge",
        "RecordValidation",
        "ReportConfigError",
        "TrainedModelServes",
    ),
)
# Behaviour of the task itself, known when the DAG is written.
NOT_TEMPLATED = {
    *(
        "poll_interval",
        "poke_interval",
        "timeout",
        "stall_timeout",
        "deferrable",
        "asset",
        "home",
        "tolerance",
        "require_verdict",
        "require_golden",
        "skip_unserved",
        "keep",
        "notify",
        "may_be_empty",
        "ahead",
        "lands",
        "layout",
        "partitioning",
        "naive_times",
        "row_id_column",
        "reader",
        "problem",
        "heads",
        "needs",
        "known_at",
        "weight",
        "group",
        "pipeline",
        "workers",
        "on_failure",
        "engine",
        "plan_only",
        "batch_rows",
        "shard_rows",
        "in_flight",
        "gpu",
        "checkpoint_every",
        "checkpoint_epochs",
        "tensorboard",
        "skip_known",
        "headline",
        "detail",
        "hint",
    ),
}
FORBIDDEN_WORDS = {"conn_id", "polling_interval", "polling_period", "wait", "check_interval"}


def made(cls: type, **more: object) -> BaseOperator:
    return cls(task_id="t", **example_arguments(cls), **more)


def test_there_are_operators_and_sensors_for_all_five_tools():
    for prefix in PREFIXES[:5]:
        assert [cls for cls in BOTH if cls.__name__.startswith(prefix)], prefix


@pytest.mark.parametrize("cls", BOTH)
def test_name_says_tool_verb_and_role(cls):
    assert cls.__name__.startswith(PREFIXES)
    assert cls.__name__.endswith("Sensor" if cls in SENSORS else "Operator")


@pytest.mark.parametrize("cls", BOTH)
def test_parameters_are_keyword_only_typed_documented_and_use_the_shared_words(cls):
    for name, parameter in parameters(cls).items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
        assert parameter.annotation is not inspect.Parameter.empty, name
    words = set(parameters(cls))
    assert not words & FORBIDDEN_WORDS
    documented = (cls.__doc__ or "") + "".join(base.__doc__ or "" for base in cls.__mro__ if "mlops" in base.__module__)
    assert not [word for word in words if f":param {word}:" not in documented]


@pytest.mark.parametrize("cls", BOTH)
def test_every_user_value_is_templated(cls):
    assert set(parameters(cls)) - NOT_TEMPLATED <= set(cls.template_fields) <= set(parameters(cls))


@pytest.mark.parametrize("cls", BOTH)
def test_constructor_only_assigns(cls):
    """So that parsing does no work, and that templates are not looked at before they are rendered."""
    if "__init__" not in vars(cls):
        return
    body = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__))).body[0].body
    for statement in body:
        is_super = isinstance(statement, ast.Expr) and "super().__init__" in ast.unparse(statement)
        is_check = isinstance(statement, ast.If) and all(isinstance(s, ast.Raise) for s in statement.body)
        assert is_super or is_check or isinstance(statement, ast.Assign | ast.AnnAssign), ast.unparse(statement)
        if isinstance(statement, ast.Assign):
            assert isinstance(statement.value, ast.Name), ast.unparse(statement)


@pytest.mark.parametrize("cls", BOTH)
def test_constructor_keeps_what_it_was_given(cls):
    operator = made(cls)
    for name, value in example_arguments(cls).items():
        assert getattr(operator, name) == value


@pytest.mark.parametrize("cls", BOTH)
def test_survives_serialization_into_a_dag(cls):
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("d", schedule=None) as dag:
        made(cls)
    serialized = DagSerialization.to_dict(dag)
    [task] = DagSerialization.from_dict(serialized).tasks
    assert task.task_type == cls.__name__
    assert set(task.template_fields) == set(cls.template_fields)


@pytest.mark.parametrize("cls", SENSORS)
def test_sensor_hands_its_settings_to_the_trigger(cls):
    """A deferral that loses configuration (apache/airflow#72144) waits for the wrong thing."""
    arguments = example_arguments(cls)
    sensor = made(cls, home="/home", poke_interval=7)
    for field in cls.template_fields:
        if isinstance(getattr(sensor, field), str) and "{{" in getattr(sensor, field):
            setattr(sensor, field, "2013-01-15")
    path, kwargs = sensor.trigger(deadline=123.0).serialize()
    assert path.startswith("airflow_mlops.triggers.")
    assert kwargs["poll_interval"] == 7
    assert kwargs["deadline"] == 123.0
    carried = {str(value) for value in kwargs.values()} | {str(v) for v in kwargs.values() if isinstance(v, dict)}
    for name, value in arguments.items():
        assert any(str(value) in text for text in carried), name


@pytest.mark.parametrize("cls", SENSORS)
def test_sensor_has_airflows_word_for_the_time_between_looks(cls):
    with pytest.raises(ConfigError, match="Did you mean 'poke_interval'"):
        made(cls, poll_interval=5)
    with DAG("d", schedule=None, default_args={"poke_interval": timedelta(minutes=2)}):
        assert made(cls).poke_interval == 120


@pytest.mark.parametrize("cls", SENSORS)
def test_soft_fail_skips_on_a_timeout_only(cls, monkeypatch):
    """A wrong setting that looks like a skip is never seen (apache/airflow#71255)."""

    def broken(self: object, context: object) -> None:
        raise ConfigError("There is no such thing.", hint="Correct it.")

    monkeypatch.setattr(cls, "look", broken)
    for deferrable in (False, True):
        with pytest.raises(AirflowFailException, match="There is no such thing"):
            made(cls, deferrable=deferrable, soft_fail=True).execute({"ti": None})
    sensor = made(cls, deferrable=True, soft_fail=True)
    event = {"status": "error", "headline": "No.", "detail": "", "hint": "", "retryable": False}
    with pytest.raises(AirflowFailException, match="No"):
        sensor.resume_execution("execute_complete", {"event": event}, {"ti": None})

    monkeypatch.setattr(cls, "look", lambda self, context: None)
    poking = made(cls, deferrable=False, poke_interval=0.01, timeout=0.02, soft_fail=True)
    with pytest.raises(AirflowSkipException):
        poking.execute({"ti": None})
    with pytest.raises(AirflowSkipException, match="Gave up waiting"):
        sensor.resume_execution("execute_complete", {"event": {"status": "timeout"}}, {"ti": None})


@pytest.mark.parametrize("cls", SENSORS)
def test_sensor_says_what_it_waits_for(cls):
    assert made(cls).describe()
