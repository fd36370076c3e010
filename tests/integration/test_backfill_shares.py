"""Several tasks of a backfill at once: what is worked out ahead, and that all counts in order, once, and while true."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_mlops.engine.backfill.run import STEP, begin, cancel, execute, outcomes, turn_of, work_ahead
from airflow_mlops.engine.backfill.shares import shares, steps_of, work_on, work_on_rest
from airflow_mlops.engine.backfill.verify import verify
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.features.computing.compute import Draft
from airflow_mlops.engine.history import answers, load
from airflow_mlops.engine.history.ahead import Ahead
from airflow_mlops.exceptions import DataError
from tests import rides
from tests.backfill_fixtures import DAYS, copied, land_other, landed, plan_of, site_of
from tests.integration.test_backfill import contents
from tests.rides import MODEL, Rides, key_of, midnight

__all__ = ["landed"]
SHARES = 3


@pytest.fixture
def world(landed, tmp_path):
    return copied(landed, tmp_path)


def refuse_to(what):
    def refuses(*_, **__):
        raise AssertionError(f"{what} again")

    return refuses


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_shares_at_once_count_in_order_and_make_the_same_bytes(world, tmp_path, monkeypatch, order):
    """The last share is quickest, and waits for nobody; the first one has its turn from the start."""
    site = site_of(world)
    plan = plan_of(site, order=order)
    begin(site, plan)
    settled, settle = [], load.settle
    monkeypatch.setattr(load, "settle", lambda feed, key, *a, **k: settled.append(key) or settle(feed, key, *a, **k))
    for work in ("seal", "compute"):
        before = dict(outcomes(site.ledger, plan))
        for share in (2, 1):
            steps = len(steps_of(plan, work, share, SHARES))
            assert work_on(site, plan, work, share, SHARES).ahead == steps
        assert outcomes(site.ledger, plan) == before, "nothing counts before its turn"
        first = len(steps_of(plan, work, 0, SHARES))
        with monkeypatch.context() as patch:
            patch.setattr(Ahead, "has", lambda *_: False)  # it is done before any of the others are ready
            assert work_on(site, plan, work, 0, SHARES).worked == first
        with monkeypatch.context() as patch:
            patch.setattr(answers, "prepare", refuse_to("prepared"))
            patch.setattr(answers, "compute_rows", refuse_to("computed"))
            rest = work_on_rest(site, plan, work)
        assert rest.worked == len(steps_of(plan, work)) - first
        assert not work_on_rest(site, plan, work).worked
    assert settled == sorted(settled, reverse=order == "newest")
    assert set(Counter(fact.key for fact in site.ledger.facts(STEP, plan.id, limit=None)).values()) == {1}
    assert all(one.seconds > 0 for one in outcomes(site.ledger, plan).values()), "what it took ahead is counted"
    assert [*(world.home / "backfills" / MODEL).glob("*.json")] == []
    found = verify(site, plan)
    assert found.as_planned, found.lines()
    assert not (world.home / "backfills" / MODEL).exists()
    assert contents(world) == contents(Rides.make(tmp_path / "by_day", DAYS))


def test_one_after_the_other_each_share_has_its_turn(world):
    site = site_of(world)
    plan = plan_of(site)
    begin(site, plan)
    for work in ("seal", "compute"):
        for share in range(2):
            loaded = work_on(site, plan, work, share, 2)
            assert (loaded.ahead, loaded.worked) == (0, len(steps_of(plan, work, share, 2)))


def test_who_has_the_turn_goes_on_with_what_others_made_ready(world, monkeypatch):
    site = site_of(world)
    plan = plan_of(site)
    begin(site, plan)
    every = [len(steps_of(plan, "seal", share, SHARES)) for share in range(SHARES)]
    assert every[0] < every[1], "as it does more than its own"
    assert work_on(site, plan, "seal", 1, SHARES).ahead == every[1]
    prepared, prepare = [], answers.prepare
    monkeypatch.setattr(answers, "prepare", lambda feed, key, **k: prepared.append(key) or prepare(feed, key, **k))
    assert work_on(site, plan, "seal", 0, SHARES).worked == every[0] + every[1]
    assert len(prepared) == every[0], "none a second time"
    assert work_on(site, plan, "seal", 2, SHARES).worked == every[2]
    assert not work_on_rest(site, plan, "seal").worked


def test_while_another_has_the_turn_a_share_works_ahead(world):
    site = site_of(world)
    plan = plan_of(site)
    begin(site, plan)
    site.ledger.move(turn_of(plan), lambda _: {"share": 1})
    first = len(steps_of(plan, "seal", 0, 2))
    loaded = work_on(site, plan, "seal", 0, 2)
    assert (loaded.ahead, loaded.worked) == (first, 0)
    assert work_on(site, plan, "seal", 1, 2).worked == len(steps_of(plan, "seal")), "one that died with it has it again"
    begin(site, plan)
    site.ledger.move(turn_of(plan), lambda _: {"share": 1})
    begin(site, plan)
    assert work_on(site, plan, "compute", 0, 2).worked, "a run that died with it has it no more"


def test_a_share_that_died_ahead_goes_on_where_it_was(world, monkeypatch):
    site = site_of(world)
    plan = plan_of(site)
    begin(site, plan)
    keep, steps = Ahead.keep, steps_of(plan, "seal", 1, 2)

    def dies(self, dataset, key, *a):
        if key == steps[-1].key:
            raise KeyboardInterrupt
        keep(self, dataset, key, *a)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ahead, "keep", dies)
        work_on(site, plan, "seal", 1, 2)
    prepared, prepare = [], answers.prepare
    monkeypatch.setattr(answers, "prepare", lambda feed, key, **k: prepared.append(key) or prepare(feed, key, **k))
    assert work_on(site, plan, "seal", 1, 2).ahead == len(steps)
    assert len(prepared) == sum(step.key == steps[-1].key for step in steps)


def test_what_is_refused_is_said_in_its_turn_and_tried_again_once_corrected(world):
    rides.land(world.home, "rides", 4, rides.rides_of(4)[:5])
    site = site_of(world)
    plan = plan_of(site, 3, 5)
    begin(site, plan)
    assert key_of(4) in [step.key for step in steps_of(plan, "seal", 1, 3) if step.dataset == "rides"]
    first, second = (len(steps_of(plan, "seal", share, 3)) for share in range(2))
    assert work_on(site, plan, "seal", 1, 3).ahead == second, "what its suite says is said in its turn"
    loaded = work_on(site, plan, "seal", 0, 3)
    assert [(one.dataset, one.key) for one in loaded.refused] == [("rides", key_of(4))]
    assert loaded.worked == first + second - 1, "it stops no other"
    assert not work_on_rest(site, plan, "seal").refused, "the shares try it again, not the rest"
    assert work_on(site, plan, "seal", 1, 3).refused


def computed_ahead(site):
    """Return a plan that is sealed and whose features are computed ahead, and one of these."""
    plan = plan_of(site, 0, 3)
    begin(site, plan)
    execute(site, plan, steps_of(plan, "seal"))
    steps = steps_of(plan, "compute")
    assert work_ahead(site, plan, steps) == len(steps)
    return plan


@pytest.mark.parametrize("what", ["a partition", "an exclusion", "the file"])
def test_what_is_true_no_more_is_done_again(world, what, monkeypatch):
    site = site_of(world)
    plan = computed_ahead(site)
    if what == "a partition":
        land_other(world, "rides", 2)
        folder = world.home / "lake" / "rides" / key_of(2)
        site.store.seal("rides", key_of(2), folder, event_time="called_at", batch_hash=None, suite_hash=None)
    elif what == "an exclusion":
        exclude(site.ledger, "rides", midnight(2), midnight(2).replace(hour=3), "a bad night", "ann")
    else:
        for file in (world.home / "backfills" / MODEL).glob(f"*{key_of(2)}.json"):
            file.write_text("{")
    again, compute = [], answers.compute_rows
    monkeypatch.setattr(answers, "compute_rows", lambda key, **k: again.append(key) or compute(key, **k))
    loaded = execute(site, plan, steps_of(plan, "compute"))
    assert loaded.computed == 4
    assert again == ([key_of(2)] if what == "the file" else [key_of(2), key_of(3)])


def test_a_draft_comes_back_as_it_was_kept(world):
    site = site_of(world)
    plan = computed_ahead(site)
    kept = Ahead(world.home, MODEL, plan.id).take("features", key_of(2))
    assert kept is not None
    assert isinstance(kept.said, Draft)
    now = answers.computed(
        key_of(2), pipeline=site.pipeline, location=site.location, root=site.store.root, ledger_url=site.ledger.url,
        code_path=site.code_path, repo=load.ensure_applied(site.location, site.ledger), ahead=None,
    ).said  # fmt: skip
    assert kept.said == now
    assert Ahead(world.home, MODEL, "another").take("features", key_of(2)) is None


def test_cancelled_nothing_more_is_made_ready(world, monkeypatch):
    site = site_of(world)
    plan = plan_of(site)
    begin(site, plan)
    keep = Ahead.keep
    monkeypatch.setattr(Ahead, "keep", lambda self, *a: (keep(self, *a), cancel(site.ledger, plan, "bob")))
    with pytest.raises(DataError, match="was cancelled by bob"):
        work_on(site, plan, "seal", 1, 2)
    assert len([*(world.home / "backfills" / MODEL).glob("*.json")]) == 1
    other = plan_of(site, 0, 1)
    begin(site, other)
    assert not (world.home / "backfills" / MODEL).exists(), "the next one removes what it left"


def test_as_many_shares_as_tasks_where_it_is_worth_it(world):
    plan = plan_of(site_of(world))
    many = plan.model_copy(update={"steps": tuple(step._replace(state="missing") for step in plan.steps * 5)})
    assert [shares(many, 100, at_once) for at_once in (1, 2, 4)] == [1, 2, 4]
    assert shares(many, 5, 2) == 13, "the first has fewer"
