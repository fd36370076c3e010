"""The Airflow plugin, found through the wheel's ``airflow.plugins`` entry point.

Airflow's long-lived processes import this module when they start, and then fork a child for every parse of a DAG
file and for every task. Importing the pipeline and its templates here once saves each of those children the import of
the whole Airflow floor (about 60 ms of CPU); nothing heavy is among it: ``tests/contract/test_parse.py`` guards that.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperator

import airflow_mlops.listeners
import airflow_mlops.partitioning
import airflow_mlops.pipeline
import airflow_mlops.templates

# Worked out and kept here; else each of our operators' classes would do it for itself, in each of those children.
BaseOperator.get_serialized_fields()
# Python imports its parser of times on first use.
airflow_mlops.partitioning.DAILY.interval("2013-01-01")

_RUN = "&run_id={RUN_ID}"
_TABS = (("dag", ""), ("dag_run", _RUN), ("task", ""), ("task_instance", _RUN))
"""Pages of Airflow that have a tab, and what of their address it is told beside the DAG."""


class AirflowMlopsPlugin(AirflowPlugin):
    """Makes the package known under Admin → Plugins, serves ``/mlops`` in the API server, notes why runs train."""

    name = "airflow_mlops"
    listeners = [airflow_mlops.listeners]
    # Addresses are relative: behind a prefix they stay below it.
    external_views = [
        {
            "name": "Models",
            "href": "mlops/models",
            "destination": "nav",
            "url_route": "models",
            "nav_top_level": True,
            "icon": "mlops/static/models.svg",
            "icon_dark_mode": "mlops/static/models-dark.svg",
        },
        *(
            {
                "name": "Model",
                "href": f"mlops/tab?dag_id={{DAG_ID}}{more}",
                "destination": destination,
                "url_route": f"model-of-{destination.replace('_', '-')}",
            }
            for destination, more in _TABS
        ),
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The web application. Only the API server reads this: tasks and the DAG processor never import FastAPI."""
        from airflow_mlops.ui.app import PREFIX, create_app

        return [{"app": create_app(), "url_prefix": PREFIX, "name": "airflow-mlops"}]
