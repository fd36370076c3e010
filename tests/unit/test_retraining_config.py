"""What a user sees who writes triggers that cannot be meant."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from airflow_mlops import BatchPredict, Label, Retrain
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.retraining import fires, shortest_interval
from airflow_mlops.templates.retrain import looks
from tests.unit.test_pipeline import pipeline, source


def label(**more) -> Label:
    return Label("late", source=source("arrivals"), **more)


def test_all_of_them_together():
    made = pipeline(
        batch=BatchPredict(),
        retrain=Retrain(
            cron="@weekly",
            new_rows=500_000,
            drift_psi=0.2,
            decay=("auc", 0.02),
            on_new_features=True,
            on_assets=["orders"],
            cooldown="1d",
            max_age="14d",
        ),
    )
    assert made.retrain.triggers == ("new_rows", "drift_psi", "decay", "on_new_features", "on_assets")


@pytest.mark.parametrize("cron", ["every monday", "0 25 * * *", "@often"])
def test_what_is_no_cron_expression_is_refused_in_words(cron):
    with pytest.raises(ConfigError, match="is not a cron expression"):
        Retrain(cron=cron)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Retrain(cron="0 0 31 2 *"), "never runs"),
        (lambda: Retrain(drift=0.2, cooldown="1d"), "Did you mean 'drift_psi'?"),
        (lambda: Retrain(new_rows=0, cooldown="1d"), "greater than 0"),
        (lambda: Retrain(drift_psi=float("nan"), cooldown="1d"), "finite number"),
        (lambda: Retrain(decay=("auc", 0.0), cooldown="1d"), "greater than 0"),
        (lambda: Retrain(decay=("acu", 0.02), cooldown="1d"), "unknown metric 'acu'. Did you mean 'auc'?"),
        (lambda: Retrain(new_rows=5), "how often this may train"),
        (lambda: Retrain(cron="@daily", cooldown="1d"), "nothing that it would cool"),
        (lambda: Retrain(cron="@weekly", new_rows=5, cooldown="8d"), "as long as the schedule's interval"),
        (lambda: Retrain(cron="0 6 * * 1,2", new_rows=5, cooldown="2d"), "runs every 1 day"),
        (
            lambda: pipeline(
                label=label(problem="regression"), gates=[], retrain=Retrain(decay=("auc", 0.02), cooldown="1d")
            ),
            "A regression has no metric 'auc'",
        ),
        (lambda: pipeline(retrain=Retrain(decay=("auc", 0.02), cooldown="1d")), "batch=BatchPredict"),
        (lambda: pipeline(retrain=Retrain(on_assets=["m.champion"], cooldown="1d")), "would ask for the next one"),
        (lambda: Retrain(on_assets=[""], cooldown="1d"), "on_assets"),
        (lambda: pipeline(retrain=Retrain(max_age="1d")), "too old on the day it is trained"),
    ],
)
def test_a_mistake_is_explained(build, says):
    with pytest.raises(ConfigError) as error:
        build()
    assert says in str(error.value)


def test_the_shortest_interval_of_a_schedule():
    assert shortest_interval("@weekly") == timedelta(days=7)
    assert shortest_interval("0 4,20 * * *") == timedelta(hours=8)


def test_many_models_are_not_looked_at_in_the_same_minute():
    hour = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=1)
    looked = Counter()
    for number in range(82):
        runs = fires(looks(f"m{number}"), hour)
        times = [next(runs) for _ in range(5)]
        assert {after - before for before, after in pairwise(times)} == {timedelta(minutes=15)}
        looked.update(moment.minute for moment in times[:4])
    assert set(looked) == set(range(60))
    assert max(looked.values()) < 15
