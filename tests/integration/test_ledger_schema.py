"""The ledger's schema: made, upgraded, completed, refused; and cheap to find when it is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.engine.ledger.models import Base
from airflow_mlops.engine.ledger.schema import HEAD, VERSION_TABLE
from airflow_mlops.exceptions import ConfigError
from tests.ledger_fixtures import FACTS, POINTERS, ROWS, run, url

__all__ = ["url"]


def test_the_head_in_the_code_is_that_of_the_migrations():
    config = Config()
    config.set_main_option("script_location", "airflow_mlops.engine.ledger:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrations_make_exactly_the_tables_of_the_models(url):
    Ledger(url).check()
    with create_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_from_before_the_migrations_keeps_every_row(url):
    run(url, FACTS, POINTERS, ROWS)
    ledger = Ledger(url)
    facts = ledger.facts("verdict", "m")
    assert [(fact.id, fact.key, fact.payload) for fact in facts] == [(2, "", {"version": 2}), (1, "", {"version": 1})]
    assert ledger.pointer("p") == Pointer({"stable": 3}, 7)
    assert ledger.record("verdict", "m", {}, key="k") == 3
    assert HEAD in ledger.check()
    test_migrations_make_exactly_the_tables_of_the_models(url)


def test_tasks_of_the_release_before_can_still_record(url):
    Ledger(url).check()
    run(url, ROWS)
    assert [fact.key for fact in Ledger(url).facts("verdict")] == ["", ""]


def test_a_database_of_which_a_crash_left_half_is_completed(url):
    run(url, FACTS)
    assert Ledger(url).swap("p", {}, None)


def test_a_database_of_a_newer_release_is_refused_and_left_alone(url):
    Ledger(url).record("verdict", "m", {})
    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(ConfigError, match=f"newer release(.|\n)*9999(.|\n)*{HEAD}"):
        Ledger(url).check()


def test_an_upgrade_that_fails_half_way_changes_nothing(url):
    run(url, FACTS, POINTERS, ROWS, "CREATE INDEX ix_mlops_fact_newest ON mlops_fact (at)")
    before = [column["name"] for column in inspect(create_engine(url)).get_columns("mlops_fact")]
    with pytest.raises(ConfigError, match="ix_mlops_fact_newest"):
        Ledger(url).check()
    after = inspect(create_engine(url))
    assert [column["name"] for column in after.get_columns("mlops_fact")] == before
    assert not after.has_table(VERSION_TABLE)
    run(url, "DROP INDEX ix_mlops_fact_newest")
    assert len(Ledger(url).facts("verdict")) == 2


def test_airflows_own_version_table_beside_it_is_left_alone(url):
    run(url, "CREATE TABLE alembic_version (version_num VARCHAR)", "INSERT INTO alembic_version VALUES ('airflow')")
    Ledger(url).check()
    with create_engine(url).connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [("airflow",)]


def test_alembic_is_not_imported_when_there_is_nothing_to_do(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    code = (
        "import json, sys; from airflow_mlops.engine.ledger import Ledger;"
        f"Ledger({url!r}).check(); print(json.dumps('alembic' in sys.modules))"
    )
    said = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert said == [True, False]
