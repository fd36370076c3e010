"""The Airflow plugin, found through the wheel's ``airflow.plugins`` entry point.

Every Airflow process imports this module, task processes too: keep it light.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class AirflowMlopsPlugin(AirflowPlugin):
    """Makes the package known to Airflow under Admin → Plugins."""

    name = "airflow_mlops"
