"""The ledger on real SQLite and real PostgreSQL."""

from __future__ import annotations

import sqlite3
from datetime import UTC, date, datetime

import numpy as np
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from airflow_mlops.contracts import SplitRule, VerdictStatus
from airflow_mlops.engine.ledger import Ledger, Pointer, as_json, database
from airflow_mlops.engine.ledger.schema import HEAD
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from tests.ledger_fixtures import url

__all__ = ["url"]


def test_facts_come_back_newest_first_and_by_subject_and_key(url):
    ledger = Ledger(url)
    ids = [ledger.record("verdict", "m", {"version": version}, key=f"k{version}") for version in (1, 2, 3)]
    ledger.record("verdict", "other", {"version": 9}, key="k1")
    ledger.record("deployment", "m", {"version": 1}, key="k1")
    versions = {
        "subject": [fact.payload["version"] for fact in ledger.facts("verdict", "m")],
        "limit": [fact.payload["version"] for fact in ledger.facts("verdict", "m", limit=2)],
        "kind": [fact.payload["version"] for fact in ledger.facts("verdict", limit=None)],
        "key": [fact.payload["version"] for fact in ledger.facts("verdict", key="k1")],
        "both": [fact.payload["version"] for fact in ledger.facts("verdict", "m", key="k1")],
    }
    assert versions == {"subject": [3, 2, 1], "limit": [3, 2], "kind": [9, 3, 2, 1], "key": [9, 1], "both": [1]}
    newest = ledger.facts("verdict", "m")[0]
    assert (newest.id, newest.key, newest.at.tzinfo) == (max(ids), "k3", UTC)


@pytest.mark.parametrize(
    "statement", ["update mlops_fact set kind = 'x'", "delete from mlops_fact", "truncate mlops_fact"]
)
def test_the_database_itself_refuses_to_change_a_fact(url, statement):
    ledger = Ledger(url)
    ledger.record("verdict", "m", {})
    # SQLite knows no TRUNCATE; emptying a table is a DELETE there.
    refusal = "syntax error" if (url[:6], statement[:8]) == ("sqlite", "truncate") else "never changed"
    with pytest.raises(DBAPIError, match=refusal), create_engine(url).begin() as connection:
        connection.execute(text(statement))
    assert [fact.kind for fact in ledger.facts("verdict")] == ["verdict"]


@pytest.mark.parametrize("verb", ["insert or replace", "replace", "insert or ignore"])
def test_sqlite_does_not_replace_a_fact_either(tmp_path, verb):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    first = ledger.record("verdict", "m", {"status": "refused"})
    statement = f"{verb} into mlops_fact (id, kind, subject, at, payload) values ({first}, 'verdict', 'm', 'x', '{{}}')"
    with pytest.raises(DBAPIError, match="never changed"), create_engine(ledger.url).begin() as connection:
        connection.execute(text(statement))
    assert [fact.payload for fact in ledger.facts("verdict")] == [{"status": "refused"}]
    assert ledger.record("verdict", "m", {}) == first + 1


@pytest.mark.parametrize("name", ["a\0b", "half \ud83d"])
def test_names_that_a_database_cannot_keep_are_refused_in_words(url, name):
    ledger = Ledger(url)
    calls = [
        *(
            lambda field=field: ledger.record(**{"kind": "k", "subject": "s", "payload": {}, "key": "", field: name})
            for field in ("kind", "subject", "key")
        ),
        lambda: ledger.facts("k", name),
        lambda: ledger.facts("k", key=name),
        lambda: ledger.pointer(name),
        lambda: ledger.swap(name, {}, None),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"cannot keep this(.|\n)*fix:"):
            call()
    assert ledger.facts("k") == []


def test_pointer_moves_only_from_where_it_was_seen(url):
    ledger = Ledger(url)
    assert ledger.pointer("p") is None
    assert ledger.swap("p", {"v": 1}, None)
    assert not ledger.swap("p", {"v": 2}, None)
    seen = ledger.pointer("p")
    assert ledger.swap("p", {"v": 2}, seen)
    assert not ledger.swap("p", {"v": 3}, seen)
    assert ledger.pointer("p").value == {"v": 2}


def test_pointers_by_the_start_of_their_names(url):
    ledger = Ledger(url)
    for name in ("a_b:2", "a_b:1", "axb:1", "a%b:1"):
        assert ledger.swap(name, {"is": name}, None)
    assert list(ledger.pointers("a_b:")) == ["a_b:1", "a_b:2"]
    assert ledger.pointers("a_b:1") == {"a_b:1": ledger.pointer("a_b:1")}
    assert list(ledger.pointers("a%")) == ["a%b:1"]
    assert ledger.pointers("nothing") == {}


def test_move_sets_changes_and_leaves(url):
    ledger = Ledger(url)
    assert ledger.move("p", lambda value: None) is None
    assert ledger.move("p", lambda value: {"n": 1, "was": value}) == Pointer({"n": 1, "was": None}, 1)
    assert ledger.move("p", lambda value: {"n": value["n"] + 1}) == Pointer({"n": 2}, 2) == ledger.pointer("p")
    assert ledger.move("p", lambda value: None) == Pointer({"n": 2}, 2)


class Contended(Ledger):
    """Somebody else always moves the pointer first."""

    def swap(self, name, value, expected):
        super().swap(name, {"by": "a rival"}, expected)
        return super().swap(name, value, expected)


def test_move_gives_up_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("airflow_mlops.engine.ledger.ledger._MOVE_ATTEMPTS", 3)
    with pytest.raises(TransientError, match=r"'p' is moved by others(.|\n)*3 attempts"):
        Contended(f"sqlite:///{tmp_path}/ledger.db").move("p", lambda value: {"by": "me"})


# --- what a payload may hold ------------------------------------------------------------------------------


def test_payloads_come_back_the_same_from_both_databases(url):
    ledger = Ledger(url)
    payload = {
        "nan": float("nan"),
        "bounds": (float("-inf"), 0.1),
        "at": datetime(2013, 1, 5, tzinfo=UTC),
        "day": date(2013, 1, 5),
        "numpy": [np.float32(0.5), np.int64(7), np.bool_(True), np.float64("nan")],
        "status": VerdictStatus.PASS,
        "text": "naïve ∅ \N{ESCAPE} \x00 'quoted'",
        "nested": {"none": None, "yes": True, "big": 2**60},
    }
    stored = {
        "nan": None,
        "bounds": [None, 0.1],
        "at": "2013-01-05T00:00:00+00:00",
        "day": "2013-01-05",
        "numpy": [0.5, 7, True, None],
        "status": "PASS",
        "text": "naïve ∅ \N{ESCAPE} \x00 'quoted'",
        "nested": {"none": None, "yes": True, "big": 2**60},
    }
    ledger.record("any", "s", payload)
    assert ledger.facts("any")[0].payload == stored
    assert ledger.move("p", lambda value: payload).value == stored == ledger.pointer("p").value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"metrics": [{"auc": object()}]}, r"payload\.metrics\[0\]\.auc: a value of type object"),
        ({"at": datetime(2013, 1, 5)}, r"payload\.at: a time without a time zone"),  # noqa: DTZ001
        ({"at": np.datetime64("2013-01-05T00:00:00", "us")}, r"payload\.at: a time without a time zone"),
        ({1: "a"}, "payload: a name of type int"),
        ({"all": np.zeros(3)}, r"payload\.all: a value of type ndarray"),
        ({"rule": SplitRule()}, r"payload\.rule: a value of type SplitRule"),
    ],
)
def test_what_has_no_honest_json_is_refused(value, said):
    with pytest.raises(ConfigError, match=said):
        as_json(value)


# --- databases that do not answer -------------------------------------------------------------------------


def test_database_down_is_said_and_may_be_retried_and_tells_no_password():
    for address in ("nobody:hunter2@127.0.0.1:9/none", "nobody@127.0.0.1:9/none?password=hunter2"):
        with pytest.raises(TransientError, match=r"does not answer(.|\n)*127.0.0.1/none") as error:
            Ledger(f"postgresql+psycopg2://{address}").check()
        assert "hunter2" not in str(error.value)


def test_a_password_that_the_driver_repeats_is_hidden(tmp_path):
    with pytest.raises(TransientError) as error:
        Ledger("postgresql+psycopg2://u:hunter2@hunter2.invalid/d").check()
    assert "***.invalid" in str(error.value)


def test_sqlite_locked_too_long_may_be_retried_and_reading_goes_on(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db?timeout=0.1")
    ledger.record("a", "s", {})
    holder = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    holder.execute("begin immediate")
    with pytest.raises(TransientError, match="database is locked"):
        ledger.record("a", "s", {})
    assert len(ledger.facts("a")) == 1
    holder.execute("rollback")
    ledger.record("a", "s", {})
    holder.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_postgresql_locked_too_long_may_be_retried(url, monkeypatch):
    monkeypatch.setattr(database, "_LOCK_SECONDS", 1)
    ledger = Ledger(url)
    ledger.swap("p", {}, None)
    with create_engine(url).begin() as connection:
        connection.execute(text("select * from mlops_pointer for update"))
        with pytest.raises(TransientError, match="lock timeout"):
            ledger.swap("p", {"v": 1}, ledger.pointer("p"))


def test_what_will_not_work_later_is_not_retried(tmp_path):
    (tmp_path / "ledger.db").write_text("This is the text of a letter, and not a database of any kind.\n" * 20)
    with pytest.raises(ConfigError, match="not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").check()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mysql://u:hunter2@h/d", "does not run on 'mysql'(.|\n)*postgresql, sqlite"),
        ("postgres://u:hunter2@h/d", "Did you mean 'postgresql'"),
        ("postgresql+asyncpg://u:hunter2@h/d", "asynchronous"),
        ("postgresql+nonsense://u:hunter2@h/d", "driver"),
        ("postgresql://u:hunter2@h:port/d", "cannot be read"),
        ("hunter2", "cannot be read"),
    ],
)
def test_wrong_urls_are_refused_without_their_password(wrong, said):
    with pytest.raises(ConfigError, match=said) as error:
        Ledger(wrong).check()
    assert "hunter2" not in str(error.value)


def test_hook_says_which_database_and_schema(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_GOOD", f'{{"conn_type": "mlops_ledger", "host": "sqlite:///{tmp_path}/l.db"}}')
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", '{"conn_type": "mlops_ledger", "host": "mysql://u:hunter2@h/d"}')
    assert LedgerHook("good").test_connection() == (True, f"sqlite answers, ledger schema {HEAD}")
    answered, said = LedgerHook("wrong").test_connection()
    assert not answered
    assert "postgresql, sqlite" in said
    assert "hunter2" not in said
