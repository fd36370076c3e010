"""The settings of a Feast project, and what its libraries raise, in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from feast.errors import FeatureViewNotFoundException
from google.protobuf.message import DecodeError

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.offline.asof import AsofOfflineStore
from airflow_mlops.engine.features.project.definitions import load_definitions
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.settings import merged, read_settings
from airflow_mlops.engine.features.project.store import feast_errors, open_store
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError
from tests.small_features import SETTINGS, shops, write_repo

# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("ofline_store: {type: duckdb}", r"no setting 'ofline_store'\. Did you mean 'offline_store'"),
        ("registry: {registry_type: sql, pth: x}", r"no setting 'pth'\. Did you mean 'path'"),
        ("online_store: {type: sqlite, pahts: x}", r"no setting 'pahts'\. Did you mean 'path'(.|\n)*online_store"),
        ("online_store: {type: sqlight}", r"does not accept(.|\n)*sqlight"),
        ("online_store: {type: redis, key_ttl_seconds: soon}", r"does not accept(.|\n)*key_ttl_seconds"),
        ("project: shop-1", r"does not accept(.|\n)*hyphens"),
    ],
)
def test_settings_that_feast_would_ignore_or_choke_on_are_refused(tmp_path, settings, words):
    base = {line.partition(":")[0] for line in settings.splitlines()}
    kept = "project: shops\nregistry: r.db\nprovider: local\n"
    lines = [line for line in kept.splitlines() if line.partition(":")[0] not in base]
    repo = write_repo(tmp_path / "repo", settings="\n".join([*lines, settings]))
    with pytest.raises(ConfigError, match=words) as caught:
        open_store(Location(repo, tmp_path))
    assert str(repo) in str(caught.value)


@pytest.mark.parametrize("settings", ["offline_store: dask", "offline_store: {type: file}", ""])
def test_ours_takes_the_place_of_a_store_that_loses_rows(tmp_path, settings):
    repo = write_repo(tmp_path / "repo", settings=f"project: shops\nregistry: r.db\nprovider: local\n{settings}\n")
    store = open_store(Location(repo, tmp_path))
    assert type(store._get_provider().offline_store) is AsofOfflineStore


@pytest.mark.parametrize("registry", ["data/registry.db", "{registry_type: sql, path: 'sqlite:///data/registry.db'}"])
def test_a_relative_registry_lies_in_the_repository_whatever_the_working_folder(tmp_path, monkeypatch, registry):
    settings = f"project: shops\nregistry: {registry}\nprovider: local\nonline_store: {{path: data/online.db}}\n"
    repo, elsewhere = write_repo(tmp_path / "repo", settings=settings), tmp_path / "elsewhere"
    (repo / "data").mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    apply_repo(Location(repo, tmp_path / "home"), Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    assert {path.name for path in (repo / "data").iterdir()} == {"registry.db", "online.db"}
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_is_no_settings_is_refused(tmp_path):
    for content, words in (
        (b"project: [", "not valid YAML"),
        (b"- project", "no mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "names no project"),
    ):
        (tmp_path / "feature_store.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            open_store(Location(tmp_path, tmp_path))


def test_the_offline_store_is_ours_and_calls_are_bounded_unless_settings_say_otherwise(tmp_path):
    repo = write_repo(tmp_path / "repo", settings=SETTINGS)
    store = open_store(Location(repo, tmp_path, {"online_store": {"type": "redis"}}))
    assert store.config.offline_store.type.endswith("AsofOfflineStore")
    assert store.config.online_store.connection_string == "localhost:6379,socket_connect_timeout=5,socket_timeout=5"
    assert store.registry.read_engine.url.database == f"{tmp_path}/feast/registry.db"
    own = {"type": "redis", "connection_string": "redis:6379,socket_timeout=1,db=2"}
    store = open_store(Location(repo, tmp_path, {"online_store": own}))
    assert store.config.online_store.connection_string == "redis:6379,socket_timeout=1,db=2,socket_connect_timeout=5"


def test_an_override_completes_a_section_and_one_of_another_kind_replaces_it():
    below = {"registry": {"registry_type": "sql", "path": "sqlite:///a.db", "sqlalchemy_config_kwargs": {"echo": True}}}
    above = {"registry": {"path": "sqlite:///b.db", "cache_ttl_seconds": 5}}
    assert merged(below, above)["registry"] == {**below["registry"], **above["registry"]}
    other = {"registry": {"registry_type": "sql", "path": "postgresql+psycopg://db/feast"}}
    assert merged(below, other) == other, "SQLite's connect_args would not suit it"


def test_relative_folders_are_made_absolute(tmp_path, monkeypatch):
    made = shops(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    location = Location("shops-repo", Path("shops-home"), {"project": "secret"})  # type: ignore[arg-type]
    assert (location.repo, location.home) == (made.repo, made.home)
    assert "secret" not in repr(location)
    contents = load_definitions(location, "shops").contents
    assert {source.path for source in contents.data_sources} == {
        f"{made.home}/features/{view}/*.parquet" for view in ("shop_sales", "item_price")
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("redis://u:s3cret@host:6379", "neither host:port"),
        ("host:s3cret", "neither host:port"),
        ("host,password=s3cret", "neither host:port"),
        ("password=s3cret", "does not start with host:port"),
        ("", "does not start with host:port"),
        ("host:1,password=a,s3cret", "neither host:port"),
        ("host:1,password=a,s3cret=b", "a comma in a password"),
        ("host:1,pasword=s3cret", "no parameter 'pasword'. Did you mean 'password'"),
        ("host:1 password=s3cret", "does not start with host:port"),
        ("host:1,h:1 password=s3cret", "a parameter that redis does not know"),
    ],
)
def test_a_connection_string_that_feast_cannot_take_apart_is_told_without_showing_it(tmp_path, text, words):
    repo = write_repo(tmp_path / "repo")
    with pytest.raises(ConfigError, match=words) as caught:
        open_store(Location(repo, tmp_path, {"online_store": {"type": "redis", "connection_string": text}}))
    assert "host:port,password=${VARIABLE},ssl=True" in caught.value.hint
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("redis", "h:1,ssl=True,username=u,password=p=:/@"),
        ("redis_cluster", "a:1,b:2,skip_full_coverage_check=true,require_full_coverage=false,password=p"),
        ("redis_sentinel", "a:1,b:2,min_other_sentinels=1,db=1"),
    ],
)
def test_other_connection_strings_stay_as_they_are(tmp_path, kind, text):
    online = {"type": "redis", "redis_type": kind, "connection_string": text}
    store = open_store(Location(write_repo(tmp_path / "repo"), tmp_path, {"online_store": online}))
    assert store.config.online_store.connection_string == f"{text},socket_connect_timeout=5,socket_timeout=5"


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    asked = "# as ${NOT_SET} says\nproject: shops\nregistry: {path: '$${HERE}/$bare/${MLOPS_HOME}/${FEAST_PW}'}\n"
    repo = write_repo(tmp_path / "repo", settings=asked)
    with pytest.raises(ConfigError, match="variable FEAST_PW, which is not set"):
        open_store(Location(repo, tmp_path))
    assert read_settings(Location(repo, tmp_path, {"registry": {"path": "r.db"}}))["registry"] == {"path": "r.db"}
    monkeypatch.setenv("FEAST_PW", "pw${x}")
    assert read_settings(Location(repo, tmp_path))["registry"]["path"] == f"${{HERE}}/$bare/{tmp_path}/pw${{x}}"
    overrides = {"online_store": {"connection_string": "h:1,password=${FEAST_PW}", "x": ["${MLOPS_HOME}", "${OTHER}"]}}
    with pytest.raises(ConfigError, match="variable OTHER, which is not set"):
        read_settings(Location(repo, tmp_path, overrides))
    monkeypatch.setenv("OTHER", "o")
    found = read_settings(Location(repo, tmp_path, overrides))["online_store"]
    assert found == {"connection_string": "h:1,password=pw${x}", "x": [str(tmp_path), "o"]}


# --- words ----------------------------------------------------------------------------------------------------


def test_a_bug_is_no_error_of_feasts_and_errors_in_words_pass_through():
    for error in (ZeroDivisionError("x"), DataError("ours")):
        with pytest.raises(type(error)) as caught, feast_errors():
            raise error
        assert caught.value is error


def test_no_secret_of_a_location_is_shown(tmp_path):
    location = shops(tmp_path, 1, {"online_store": {"type": "redis", "connection_string": "h:1,password=hunter2"}})
    assert "hunter2" not in repr(location)
    bad: Callable[[], Any] = lambda: open_store(  # noqa: E731
        replace(location, overrides={"online_store": {"type": "redis", "connection_string": {"password": "hunter2"}}})
    )
    with pytest.raises(MlopsError) as caught:
        bad()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (sqlite3.OperationalError("database or disk is full"), TransientError, "is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), ConfigError, "may not be opened"),
        (PermissionError(13, "Permission denied", "registry.db"), ConfigError, "may not be opened"),
        (ConnectionResetError("reset by peer"), TransientError, "does not answer"),
        (FileNotFoundError(2, "No such file", "rows.parquet"), DataError, "cannot be read"),
        (DecodeError("Error parsing message"), DataError, "not readable"),
        (duckdb.OutOfMemoryException("could not allocate"), DataError, "do not fit into memory"),
        (psycopg.errors.UndefinedTable('relation "shops" does not exist'), DataError, "lacks a table"),
        (psycopg.OperationalError('password authentication failed for user "u"'), ConfigError, "refuses"),
        (FeatureViewNotFoundException("shop"), ConfigError, "Feast refused"),
    ],
)
def test_errors_that_are_hard_to_provoke_are_told_too(error, kind, words):
    with pytest.raises(kind, match=words) as caught, feast_errors():
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.hint
