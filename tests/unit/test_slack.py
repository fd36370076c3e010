"""A training that is due before its data must have landed is pointed out when the DAG file is parsed."""

from __future__ import annotations

import warnings
from datetime import timedelta

import pytest

from airflow_mlops import Retrain
from airflow_mlops.templates.slack import slack, warn_of_missing_slack
from tests.unit import test_pipeline as made


@pytest.mark.parametrize(
    ("cron", "left"),
    [
        ("@weekly", timedelta(0)),
        ("30 6 * * 0", timedelta(hours=6, minutes=30)),
        ("0 4,20 * * *", timedelta(hours=4)),
        ("15 5 1 * *", timedelta(hours=5, minutes=15)),
    ],
)
def test_slack_is_the_shortest_time_from_midnight_to_a_run(cron, left):
    assert slack(cron) == left


def pipeline(cron: str | None, lands_within: str | None):
    return made.pipeline(source=made.source(lands_within=lands_within), retrain=Retrain(cron=cron))


def test_too_little_slack_is_said_with_the_source_and_a_better_schedule():
    with pytest.warns(UserWarning, match=r"'departures' may land until 6h after it.*no earlier than 06:00 UTC"):
        warn_of_missing_slack(pipeline("0 5 * * *", "6h"))


def test_a_promise_of_more_than_a_day_can_be_met_by_no_time_of_day():
    with pytest.warns(UserWarning, match="No time of day is late enough"):
        warn_of_missing_slack(pipeline("0 23 * * *", "25h"))


@pytest.mark.parametrize(("cron", "promise"), [("0 7 * * *", "6h"), ("@weekly", None), (None, "6h")])
def test_enough_slack_or_no_promise_is_silent(cron, promise):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_slack(pipeline(cron, promise))
