"""For installs that copy ``airflow_mlops/`` onto the path instead of installing the wheel.

The wheel registers the plugin by entry point, and Airflow refuses a second plugin of the same name: so this
file steps aside when the wheel is there.
"""

from __future__ import annotations

from importlib.metadata import entry_points

if not any(entry.name == "airflow_mlops" for entry in entry_points(group="airflow.plugins")):
    from airflow_mlops.plugin import AirflowMlopsPlugin

    __all__ = ["AirflowMlopsPlugin"]
