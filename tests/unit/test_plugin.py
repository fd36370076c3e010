"""The plugin exists once, however the package got here."""

from __future__ import annotations

import importlib.metadata
import runpy

import pytest

from tests.conftest import ROOT

SHIM = str(ROOT / "plugins" / "airflow_mlops_plugin.py")


def test_shim_steps_aside_for_the_wheel():
    assert "AirflowMlopsPlugin" not in runpy.run_path(SHIM)


def test_shim_serves_a_copied_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    assert runpy.run_path(SHIM)["AirflowMlopsPlugin"].name == "airflow_mlops"


def test_airflow_loads_the_plugin_without_complaint():
    from airflow import plugins_manager

    plugins, errors = plugins_manager._get_plugins()
    assert "airflow_mlops" in {plugin.name for plugin in plugins}
    assert not [name for name in errors if "mlops" in name]
