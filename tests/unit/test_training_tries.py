"""How often a training is tried again: whoever gets further may go on, whoever does not is ended."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, RetryPolicy
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryDecision

from airflow_mlops import Kubernetes, Resources
from airflow_mlops.exceptions import TrainingError, TransientError
from airflow_mlops.operators.tensorflow_launch import training_tasks
from airflow_mlops.operators.training_tries import MOST_RETRIES, RetryWhileItGetsFurther, Tries


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    set = dict.__setitem__


class Task:
    """A task of which one try follows another, each with nothing but what the store has."""

    def __init__(self, retries: int) -> None:
        self.policy, self.max_tries, self.number = RetryWhileItGetsFurther(retries), MOST_RETRIES, 0
        self.store = Store()

    @property
    def context(self) -> Any:
        ti = SimpleNamespace(max_tries=self.max_tries, try_number=self.number)
        return {"ti": ti, "task_state_store": self.store}

    def begin(self, known: int = 0) -> Tries:
        self.number += 1
        return self.policy.begin(self.context, known)

    def fails(self) -> RetryDecision:
        return self.policy.evaluate(TransientError("no answer"), self.number, self.max_tries, self.context)


def test_a_training_that_gets_further_may_lose_any_number_of_workers():
    task = Task(retries=1)
    for examples in range(10, 300, 10):
        task.begin().reached(examples)  # and then nobody says anything any more


def test_what_a_lost_worker_had_reached_counts_by_what_it_left_behind():
    """It is not written down at every step; its folder may say more."""
    task = Task(retries=1)
    for examples in range(0, 300, 10):
        task.begin(known=examples)


def test_one_that_gets_no_further_is_ended_after_its_retries():
    task = Task(retries=2)
    task.begin().reached(500)
    for _ in range(2):
        task.begin(known=500).reached(500)
    with pytest.raises(TrainingError, match="lost 3 times in a row, and it got no further") as refused:
        task.begin(known=500)
    assert "500 examples" in refused.value.detail


def test_one_that_fails_is_tried_again_as_often_as_was_wanted():
    task = Task(retries=2)
    for _ in range(2):
        task.begin().reached(10)
        assert task.fails().action is RetryAction.DEFAULT
    task.begin().reached(10)
    last = task.fails()
    assert last.action is RetryAction.FAIL
    assert last.reason == "3 tries in a row got no further than 10 examples"


def test_what_fails_before_it_trains_is_counted_too():
    """A home that does not answer, say: Airflow alone would try it a hundred times."""
    task = Task(retries=2)
    decisions = []
    for task.number in (1, 2, 3):
        decisions.append(task.fails().action)
    assert decisions == [RetryAction.DEFAULT, RetryAction.DEFAULT, RetryAction.FAIL]


def test_a_try_that_gets_further_gives_all_retries_back():
    task = Task(retries=1)
    for examples in (10, 20, 30, 30):
        task.begin().reached(examples)
        again = task.fails().action
    assert again is RetryAction.FAIL
    assert task.number == 4


def test_a_cleared_task_begins_anew():
    task = Task(retries=1)
    for _ in range(2):
        task.begin()
    assert task.fails().action is RetryAction.FAIL
    task.max_tries += 1 + MOST_RETRIES
    task.begin()
    assert task.fails().action is RetryAction.DEFAULT


def test_progress_is_not_written_down_at_every_step():
    task: Any = Task(retries=1)
    written: list[Any] = []
    task.store.set = lambda _, value: written.append(value)
    tries = task.begin()
    for examples in range(1, 100):
        tries.reached(examples)
    assert len(written) == 2


@pytest.mark.parametrize(("retries", "airflows"), [(0, 0), (2, MOST_RETRIES), (500, 500)])
@pytest.mark.parametrize("launcher", ["local", Kubernetes(image="train:1")])
def test_airflow_is_told_more_retries_than_were_wanted(launcher: Any, retries: int, airflows: int, monkeypatch):
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", "s3://aws_default@bucket/prefix" if launcher != "local" else "/srv")
    with DAG("m", default_args={"retries": retries, "retry_delay": timedelta(seconds=1)}) as dag:
        training_tasks(launcher=launcher, model="m", snapshot="s", entrypoint="a:b", resources=Resources())
    task: Any = dag.get_task("train" if launcher == "local" else "train.run")
    assert (task.retries, task.retry_policy.retries) == (airflows, retries)


def test_a_policy_of_ones_own_stays():
    mine: RetryPolicy = ExceptionRetryPolicy(rules=[])
    with DAG("m", default_args={"retries": 2}):
        task = training_tasks(model="m", snapshot="s", entrypoint="a:b", retry_policy=mine)
    assert (task.retries, task.retry_policy) == (2, mine)
