"""Hooks and what Airflow is told about them."""

from __future__ import annotations

import importlib
import json
from importlib import resources

import jsonschema
import pytest

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.get_provider_info import get_provider_info
from airflow_mlops.hooks.base import MlopsHook
from airflow_mlops.hooks.feast import FIELDS
from tests.contract.classes import HOOKS

CONNECTION_TYPES = {entry["connection-type"]: entry for entry in get_provider_info()["connection-types"]}


def test_provider_info_meets_airflows_schema():
    schema = json.loads(resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_airflow_finds_the_provider_with_its_forms():
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "airflow-mlops" in manager.providers
    assert set(CONNECTION_TYPES) <= set(manager.hooks)
    assert set(CONNECTION_TYPES) <= set(manager.field_behaviours)
    assert manager.connection_form_widgets["extra__mlflow__token"].is_sensitive


def test_every_hook_is_registered_under_its_own_type():
    registered = {entry["hook-class-name"]: type_ for type_, entry in CONNECTION_TYPES.items()}
    assert registered == {f"{hook.__module__}.{hook.__qualname__}": hook.conn_type for hook in HOOKS}


def test_the_fields_of_a_feast_connection_are_those_of_its_form():
    assert set(CONNECTION_TYPES["feast"]["conn-fields"]) == set(FIELDS)
    host = CONNECTION_TYPES["feast"]["ui-field-behaviour"]
    assert set(host["hidden-fields"]) == {"schema", "port", "login", "password"}, "secrets are in linked connections"


def test_every_extra_link_is_registered_and_exists():
    for path in get_provider_info()["extra-links"]:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_every_decorator_is_registered_and_exists():
    from airflow.sdk import task

    for entry in get_provider_info()["task-decorators"]:
        module, _, name = entry["class-name"].rpartition(".")
        assert getattr(task, entry["name"]) is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_words(hook: type[MlopsHook]):
    assert hook.default_conn_name == f"{hook.conn_type}_default"
    assert hook.conn_name_attr.endswith("_conn_id")
    assert hook().conn_id == hook.default_conn_name


@pytest.mark.parametrize("hook", HOOKS)
def test_missing_connection_is_explained(hook: type[MlopsHook]):
    with pytest.raises(ConfigError, match=r"no Airflow connection 'nowhere'(.|\n)*AIRFLOW_CONN_NOWHERE"):
        _ = hook("nowhere").connection


@pytest.mark.parametrize("hook", HOOKS)
def test_wrong_type_of_connection_is_explained(hook: type[MlopsHook], monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WEB", json.dumps({"conn_type": "http", "host": "example.com"}))
    with pytest.raises(ConfigError, match=f"'web' has type 'http', not '{hook.conn_type}'"):
        _ = hook("web").connection


@pytest.mark.parametrize("hook", HOOKS)
def test_the_test_button_answers_in_words(hook: type[MlopsHook], monkeypatch, tmp_path):
    address = {"conn_type": hook.conn_type, "host": "127.0.0.1", "port": 9}
    if hook.conn_type == "tf_serving":
        address["extra"] = {"grpc_port": 9, "timeout": 1}
    if hook.conn_type == "mlflow":
        address["host"] = "http://127.0.0.1:9"
    if hook.conn_type == "feast":
        address["host"] = str(tmp_path / "nowhere")
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps(address))
    worked, words = hook("down").test_connection()
    assert not worked
    assert "fix:" in words
