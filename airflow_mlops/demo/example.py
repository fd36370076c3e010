"""Names and dates of the flight_delay example."""

from __future__ import annotations

from datetime import date

MODEL = "flight_delay"
SERVICE = "flight_delay_v1"
LAND, FEATURES, TRAIN, DEPLOY, RUNBOOK, ROLLBACK, SOURCES = (
    f"{MODEL}.{name}" for name in ("land", "features", "train", "deploy", "runbook", "rollback", "sources")
)
DAGS = (LAND, FEATURES, TRAIN, DEPLOY, RUNBOOK, ROLLBACK, SOURCES)

FIRST_DAY = date(2013, 1, 1)
LAST_DAYS = (date(2013, 6, 5), date(2013, 6, 7))
"""The days that go through the scheduler, one by one; those before are loaded in bulk."""
