"""A backfill while the ledger comes and goes; and the way back from one."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from airflow_mlops import cli
from airflow_mlops.engine.backfill.run import STEP, approve, begin, cancel, execute, finish, probe, remaining
from airflow_mlops.engine.backfill.shares import work_on, work_on_rest
from airflow_mlops.engine.backfill.undo import undo
from airflow_mlops.engine.backfill.verify import verify
from airflow_mlops.exceptions import DataError, GateError, TransientError
from airflow_mlops.operators.backfill import ApproveBackfillOperator
from tests.backfill_fixtures import SUITE, copied, land_other, landed, plan_of, site_of
from tests.integration.test_backfill import DAG, contents
from tests.rides import MODEL, key_of

__all__ = ["landed"]


@pytest.fixture
def world(landed, tmp_path):
    return copied(landed, tmp_path)


class Outages:
    """A ledger's database that refuses one access in so many, by chance; what wants it tries again, as tasks do."""

    def __init__(self, monkeypatch, seed):
        self.chance, self.seen, self.rate = random.Random(seed), 0, 0.0
        begin_ = Engine.begin

        def refuses(engine):
            if str(engine.url).endswith("ledger.db") and self.chance.random() < self.rate:  # Feast's registry stays
                self.seen += 1
                raise OperationalError("", {}, sqlite3.OperationalError("unable to open database file"))
            return begin_(engine)

        monkeypatch.setattr(Engine, "begin", refuses)

    def through(self, work, *arguments, **more):
        """Call again and again until it is through."""
        for _ in range(500):
            self.rate = 0.03
            try:
                return work(*arguments, **more)
            except TransientError as error:
                assert "The ledger's database does not answer" in error.headline
            finally:
                self.rate = 0.0
        raise AssertionError("it never went through")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ledger_that_comes_and_goes_costs_nothing_and_doubles_nothing(world, monkeypatch, seed):
    site = site_of(world)
    site.ledger.check()
    outages = Outages(monkeypatch, seed)
    plan = outages.through(plan_of, site, 0, 2, approve_above=1)
    outages.through(approve, site.ledger, plan, plan.hash, "ann")
    outages.through(begin, site, plan)
    outages.through(probe, site, plan)
    for work in ("seal", "compute"):
        for share in (1, 0):
            outages.through(work_on, site, plan, work, share, 2)
        outages.through(work_on_rest, site, plan, work)
    assert not remaining(site.ledger, plan)
    found = outages.through(verify, site, plan)
    assert outages.seen > 5
    assert found.as_planned, found.lines()
    assert set(Counter(fact.key for fact in site.ledger.facts(STEP, plan.id, limit=None)).values()) == {1}
    assert set(Counter(fact.key for fact in site.ledger.facts("partition", "rides")).values()) == {1}
    other = outages.through(plan_of, site, 3, 3)
    outages.through(begin, site, other)
    outages.through(cancel, site.ledger, other, "bob")


def test_an_answer_that_the_ledger_did_not_hear_is_no_yes(world, monkeypatch):
    """The task fails so that it is tried again; until the ledger has the answer, nothing begins."""
    site = site_of(world)
    plan = plan_of(site, approve_above=1)
    connection = {"conn_type": "mlops_ledger", "host": site.ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    task = ApproveBackfillOperator(task_id="approve", subject="?", body="it", plan_hash=plan.hash)
    event = {
        "chosen_options": ["Approve"], "params_input": {}, "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "1", "name": "ann"},
    }  # fmt: skip

    class Kept:
        id = "ti"

        def xcom_pull(self, **_):
            return plan.hash

    context = {"ti": Kept(), "task_instance": Kept(), "task": task}
    with monkeypatch.context() as patch, pytest.raises(TransientError, match="does not answer"):
        Outages(patch, 1).rate = 1.0
        task.execute_complete(context, event)
    with pytest.raises(GateError, match="approved by nobody"):
        begin(site, plan)
    task.execute_complete(context, event)
    begin(site, plan)


def replaced(site, world):
    """Seal and compute three days, then others for one of them by a plan; return the plan, and all as it was before."""
    first = plan_of(site, 0, 2)
    begin(site, first)
    execute(site, first, first.work)
    finish(site, first)
    before = contents(world)
    land_other(world, "ends", 1)
    plan = plan_of(site, 0, 3)
    begin(site, plan)
    execute(site, plan, plan.work)
    return plan, before


def killed(*_):
    raise KeyboardInterrupt


def test_the_way_back(world, monkeypatch):
    site = site_of(world)
    plan, before = replaced(site, world)
    with pytest.raises(DataError, match="cannot be undone while one of"):
        undo(site, plan, plan.hash, "ann")
    finish(site, plan)
    assert contents(world) != before
    with pytest.raises(GateError, match="the hash is that of another plan"):
        undo(site, plan, plan.hash[:-1], "ann")
    after = site.store.current("ends", key_of(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("airflow_mlops.engine.backfill.undo.mark_late", killed)
        undo(site, plan, plan.hash, "ann")
    undo(site, plan, plan.hash, "ann")
    late = site.ledger.facts("late_arrival", "ends", key=key_of(1))[0].payload
    assert (late["old"], late["new"]) == (after, site.store.current("ends", key_of(1))), "who saw it is marked"
    now = contents(world)
    assert {name: now[name] for name in before} == before, "the same bytes count as before, of partitions and features"
    added = {name for name in now if name not in before}
    assert added, "what was not there before stays"
    assert all(key_of(3) in name for name in added), added
    assert undo(site, plan, plan.hash, "ann").lines()[0] == "It replaced nothing."
    again = plan_of(site, 1, 1)
    assert again.work[0].name == f"ends {key_of(1)}", "what has landed is other than what counts"


def test_what_somebody_replaced_since_is_left_alone(world):
    site = site_of(world)
    plan, _ = replaced(site, world)
    finish(site, plan)
    land_other(world, "rides", 1)
    folder = world.home / "lake" / "ends" / key_of(1)
    (folder / "rows.parquet").write_bytes((world.home / "lake" / "ends" / key_of(2) / "rows.parquet").read_bytes())
    site.ledger.record("partition", "ends", {"revision": "x", "replaces": "somebody's"}, key=key_of(1))
    done = undo(site, plan, plan.hash, "ann")
    assert (done.back, done.left) == ([], [f"ends {key_of(1)}"])


def test_the_command_that_goes_back(world, monkeypatch, tmp_path, capsys):
    (world.dags / "ride_pipeline.py").write_text(DAG)
    (world.dags / "backfill_suite.py").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    site = site_of(world)
    plan, _ = replaced(site, world)
    finish(site, plan)
    place = ["--home", str(world.home), "--ledger", world.ledger.url, "--repo", str(world.repo)]
    spec = f"{world.dags}/ride_pipeline.py:ride_delay"
    assert cli.main(["backfill", "undo", spec, plan.id, "--approve", plan.hash, *place]) == 0
    said = capsys.readouterr().out
    assert f"1 partitions as they were before: ends {key_of(1)}" in said
    assert MODEL in plan.model
