"""Stages of a pipeline as groups of tasks, in a DAG that somebody writes by hand."""

from __future__ import annotations

import importlib
import re

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup
from airflow.sdk import task as as_task

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.templates import deploy_group, features_group, partitions_group, train_group, train_on_group

GROUPS = {"features": features_group, "train": train_group, "deploy": deploy_group}


@pytest.fixture(scope="module")
def pipeline():
    return importlib.import_module("flight_delay").flight_delay


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_has_the_tasks_of_its_dag(pipeline, name):
    with DAG("mine", schedule=None) as dag:
        GROUPS[name](pipeline)
    own = next(one for one in pipeline.dags().values() if one.dag_id == f"flight_delay.{name}")
    alone = {"remind_of_pin"}
    assert {f"{name}.{task}" for task in own.task_dict if task not in alone} == set(dag.task_dict)
    for task_id, task in own.task_dict.items():
        if task_id in alone or not hasattr(task, "template_fields") or task.is_mapped:
            continue
        twin = dag.task_dict[f"{name}.{task_id}"]
        assert type(twin) is type(task)
        assert (twin.retries, twin.pool, twin.trigger_rule) == (task.retries, task.pool, task.trigger_rule)
        assert {f"{name}.{one}" for one in task.upstream_task_ids} == twin.upstream_task_ids
        for field in task.template_fields:
            said = getattr(task, field)
            if isinstance(said, str) and not re.search(r"params|dag_run", said):  # these are of the form of the DAG
                assert getattr(twin, field) == said, f"{task_id}: {field}"
                assert field != "key" or "partition_key" in said, task_id


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_stands_between_ordinary_tasks(pipeline, name):
    with DAG("mine", schedule=None, user_defined_macros={"latest": "mine", "other": "mine"}) as dag:
        before, after = EmptyOperator(task_id="before"), EmptyOperator(task_id="after")
        group = GROUPS[name](pipeline, "stage")
        before >> group >> after
    first = [task for task in dag.tasks if task.task_id.startswith("stage.") and task.upstream_task_ids == {"before"}]
    assert first
    assert all(task.upstream_task_ids for task in dag.tasks if task.task_id != "before"), (
        "every task of the group is behind what comes first"
    )
    assert group.output.operator.task_id in after.upstream_task_ids
    assert dag.user_defined_macros["other"] == "mine"


def test_the_partition_may_come_from_anywhere(pipeline):
    with DAG("mine", schedule=None) as dag:
        features_group(pipeline, key="params.day")
    assert dag.task_dict["features.departures.wait"].key == "{{ params.day }}"
    assert dag.user_defined_macros.keys() >= {"aligned", "latest"}


def test_a_version_and_what_may_change_are_said(pipeline):
    with DAG("mine", schedule=None) as dag:
        deploy_group(pipeline, version="{{ params.v }}", signature_changes="additive")
        deploy_group(pipeline, "again")
    assert dag.task_dict["deploy.fetch"].version == "{{ params.v }}"
    assert dag.task_dict["deploy.publish"].signature_changes == "additive"
    assert dag.task_dict["again.fetch"].version == ""
    assert dag.task_dict["again.publish"].signature_changes == "refuse"


def test_every_form_is_one_that_airflow_takes(pipeline):
    for dag in pipeline.derive(retrain={"max_age": "60d"}).dags().values():
        assert dag.params.validate().keys() == dag.params.keys()


def test_every_task_says_what_it_does(pipeline):
    for dag in pipeline.derive(retrain={"new_rows": 5, "cooldown": "1d"}).dags().values():
        for task in dag.tasks:
            assert len(task.doc_md or "") > 20, task.task_id
            assert ":param" not in task.doc_md
            assert ":class:" not in task.doc_md


@as_task
def own_checks(data: str, key: str) -> None:
    """Check files."""


@as_task
def own_training(data: str) -> str:
    """Train on a snapshot."""
    return data


def test_a_feed_may_be_validated_by_a_task_of_ones_own(pipeline):
    with DAG("mine", schedule=None) as dag:
        features_group(pipeline, key="ds", validate={"departures": own_checks})
    checks = dag.task_dict["features.departures.own_checks"]
    assert checks.upstream_task_ids == {"features.departures.stage"}
    assert checks.op_kwargs["key"] == "{{ ds }}"
    record = dag.task_dict["features.departures.record_validation"]
    assert (record.task_type, record.checked_by) == ("RecordValidationOperator", "features.departures.own_checks")
    assert dag.task_dict["features.departures.check"].validation.operator is record
    assert dag.task_dict["features.arrivals.validate"].task_type == "GXValidateDataOperator"


def test_the_partitions_alone_have_no_feast(pipeline):
    with DAG("mine", schedule=None) as dag:
        partitions_group(pipeline) >> EmptyOperator(task_id="after")
    assert not [name for name, one in dag.task_dict.items() if one.task_type.startswith("Feast")]
    assert {dag.task_dict[f"partitions.{feed.dataset}.check"].feast_conn_id for feed in pipeline.feeds} == {""}
    before = dag.task_dict["after"].get_flat_relative_ids(upstream=True)
    assert before >= {f"partitions.{feed.dataset}.seal" for feed in pipeline.feeds}


def test_a_snapshot_may_be_validated_and_trained_on_by_tasks_of_ones_own(pipeline):
    with DAG("mine", schedule=None) as dag:
        train_group(pipeline, validate=own_checks, train=own_training)
    tasks = dag.task_dict
    assert tasks["train.own_checks"].upstream_task_ids == {"train.snapshot"}
    assert tasks["train.own_training"].upstream_task_ids == {"train.record_validation", "train.snapshot"}
    adopt = tasks["train.adopt"]
    assert adopt.saved_model.operator is tasks["train.own_training"]
    assert tasks["train.evaluate"].training.operator is adopt
    assert "train.train" not in tasks


def test_an_operator_of_ones_own_may_train(pipeline):
    with DAG("mine", schedule=None) as dag:
        train_group(pipeline, train=lambda data: EmptyOperator(task_id="fit"))
    assert dag.task_dict["train.fit"].upstream_task_ids == {"train.validate"}


def test_files_of_ones_own_are_trained_on_without_feast(pipeline):
    with DAG("mine", schedule=None) as dag:
        files = own_training("lake")
        train_on_group(pipeline, data=files, validate=own_checks) >> deploy_group(pipeline, parity=False)
    tasks = dag.task_dict
    assert not [name for name, one in tasks.items() if one.task_type.startswith("Feast")]
    assert tasks["train.train"].data.operator is tasks["own_training"]
    assert tasks["train.train"].validation.operator is tasks["train.record_validation"]
    assert tasks["train.train"].label_column == pipeline.label.column
    assert tasks["deploy.promote"].upstream_task_ids == {"deploy.verify", "deploy.fetch"}


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda one: features_group(one, validate={"departure": own_checks}), "Did you mean 'departures'?"),
        (lambda one: features_group(one, validate={"departures": lambda data, key: None}), "is no task"),
        (lambda one: train_group(one, train=lambda data: "folder"), "is no task"),
        (lambda one: train_group(one, train=lambda folder: "folder"), "unexpected keyword argument 'data'"),
        (lambda one: train_group(one, validate=own_training), "Let it take data and key"),
        (lambda one: train_group(one, train=lambda data: TaskGroup("fits")), "which of them has the model"),
    ],
)
def test_a_part_that_is_none_is_explained(pipeline, build, says):
    with DAG("mine", schedule=None), pytest.raises(ConfigError, match=re.escape(says)):
        build(pipeline)
