"""DAGs of a :class:`~airflow_mlops.fleet.Fleet`: those of its members, and what there is of them together."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING

from airflow.sdk import CronTriggerTimetable
from airflow.sdk.definitions._internal.contextmanager import DagContext

from airflow_mlops.exceptions import MlopsError
from airflow_mlops.operators.fleet import ReportConfigErrorOperator
from airflow_mlops.templates import build_dags
from airflow_mlops.templates.base import pipeline_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.fleet import Fleet

CONFIG_ERROR = """``{model}.config_error``: {headline}

**{model}, a member of the fleet `{fleet}`, has no other DAGs: its configuration is wrong.** What serves of it stays.
The other members are not concerned.

```
{error}
```

This DAG fails once a day. It goes away once the configuration is right.
"""


def build_fleet(fleet: Fleet) -> dict[str, DAG]:
    """Return the DAGs of all members, by a Python name."""
    pipelines, faults = fleet.pipelines()
    dags: dict[str, DAG] = {}
    first = fleet.model_of(fleet.first) if fleet.first else ""
    for member, pipeline in pipelines.items():
        try:
            dags |= build_dags(pipeline, first if member != fleet.first else "")
        except MlopsError as error:
            faults[member] = error
            _take_back(pipeline.model)
    if fleet.first:
        from airflow_mlops.templates.rollout import rollout_dag  # only those who use it load it

        rollout = rollout_dag(fleet, {member: one for member, one in pipelines.items() if member not in faults})
        dags[rollout.dag_id.replace(".", "_")] = rollout
    for member, fault in faults.items():
        shown = config_error_dag(fleet, member, fault)
        dags[shown.dag_id.replace(".", "_")] = shown
    return dags


def config_error_dag(fleet: Fleet, member: str, error: MlopsError) -> DAG:
    """Return the DAG that a member has whose configuration is wrong, and warn, where the DAG file is parsed.

    An import error would say it too, but Airflow stops all DAGs of a file that has one.
    """
    model = fleet.model_of(member)
    warnings.warn(f"{model} has no DAGs: {error}", UserWarning, stacklevel=2)
    doc = CONFIG_ERROR.format(model=model, fleet=fleet.base.model, headline=error.headline, error=error)
    with pipeline_dag(
        fleet.base,
        "config_error",
        doc,
        model=model,
        schedule=CronTriggerTimetable("@daily", timezone="UTC"),
        start_date=fleet.base.source.starts_at,
        is_paused_upon_creation=False,
    ) as dag:
        ReportConfigErrorOperator(
            task_id="report",
            headline=f"The configuration of {model} is wrong: {error.headline}",
            detail=error.detail,
            hint=error.hint or textwrap.shorten(str(error), 200),
            retries=0,
        )
    return dag


def _take_back(model: str) -> None:
    """Take a model's DAGs from those that Airflow found in the file: each was added when its block ended."""
    found = DagContext.autoregistered_dags
    found -= {(dag, module) for dag, module in found if dag.dag_id.startswith(f"{model}.")}
