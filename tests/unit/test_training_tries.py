"""How often a training is tried again: whoever gets further may go on, whoever does not is ended."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_mlops import Kubernetes, Resources
from airflow_mlops.exceptions import TrainingError, TransientError
from airflow_mlops.operators.tensorflow_launch import training_tasks
from airflow_mlops.operators.training_tries import MOST_RETRIES, Tries

LOST = TransientError("The server does not answer.", detail="port 1", hint="Wait.")


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    set = dict.__setitem__


class Task:
    """A task of which one try follows another, each with nothing but what the store has."""

    def __init__(self, retries: int | None = 2) -> None:
        self.store, self.retries, self.max_tries = Store(), retries, MOST_RETRIES

    def begin(self, known: int = 0, training: str = "one") -> Tries:
        context: Any = {"ti": SimpleNamespace(max_tries=self.max_tries), "task_state_store": self.store}
        tries = Tries(context, training, self.retries)
        tries.begin(known)
        return tries


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


def test_the_last_try_says_why_it_failed_and_not_how_often():
    task = Task(retries=2)
    first = task.begin()
    first.reached(10)
    assert first.last_words(LOST) is LOST
    assert task.begin().last_words(LOST) is LOST
    last = task.begin()
    last.reached(10)  # as far as before
    said = last.last_words(LOST)
    assert isinstance(said, TrainingError)
    assert str(said).splitlines()[0] == "The server does not answer."
    assert "port 1; 3 tries in a row got no further than 10 examples" in said.detail


def test_a_try_that_gets_further_gives_all_retries_back():
    task = Task(retries=2)
    for examples in (10, 10, 20, 20, 30, 30):
        tries = task.begin()
        tries.reached(examples)
    assert not tries.over
    assert task.begin().over


@pytest.mark.parametrize("other", ["cleared", "another training"])
def test_anew(other: str):
    task = Task(retries=1)
    task.begin().reached(100)
    assert task.begin().over
    task.max_tries += other == "cleared"
    tries = task.begin(training="two" if other == "another training" else "one")
    assert not tries.over


def test_where_airflow_alone_counts_nothing_is_kept():
    task = Task(retries=None)
    for _ in range(9):
        assert task.begin().last_words(LOST) is LOST
    assert not task.store


def test_progress_is_not_written_down_at_every_step():
    task: Any = Task()
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
    assert task.retries == airflows
    assert (task.retries_without_progress if launcher == "local" else task.retry_policy.retries) == retries
