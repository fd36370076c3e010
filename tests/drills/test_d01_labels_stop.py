"""D01: the label feed stops on Wednesday, and what has no label yet reads as negative.

Retrained on Sunday, the model learns that flights have stopped being late. The feed catches up on Monday. Each
defence is shown alone, with the others switched off: the label watermark, the rate of positives on either side of
the split, and having to beat a constant predictor. The mean prediction is held against the champion's, and refuses
nothing: here the labels are missing in the test split, so no model has learned it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from airflow_mlops.contracts import RegisteredModel, Snapshot, SplitRule, ValidationResult, Verdict, VerdictStatus
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.evaluation.approvals import choose_version, record_verdict
from airflow_mlops.engine.evaluation.evaluate import evaluate, score
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training import training_data
from airflow_mlops.engine.features.training.training_data import build_training_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import DataError
from tests.data_fixtures import landed, spoil
from tests.feast_fixtures import EVENT_TIMES, REPO, compute_day, ledger_of
from tests.serving_fixtures import (
    model_named_after,
    put_into_service,
    rollout_of,
    served,
)
from tests.training_fixtures import make_spec
from tests.warm_trainer import train

pytestmark = pytest.mark.drill

DAY = timedelta(days=1)
START, WEDNESDAY, SUNDAY = date(2013, 3, 27), date(2013, 4, 17), date(2013, 4, 21)
MONDAY = SUNDAY + DAY
BEATS_A_CONSTANT = [{"metric": "auc", "vs": "baseline", "min_gain": 0.1}]
NO_RATES = math.inf


def filled_in(frame: pd.DataFrame) -> pd.DataFrame:
    """An upstream that fills in what it does not know."""
    return frame.assign(late_15=False)


def run_days(home: Path, days: Iterable[date], change: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> None:
    """Let days land, the labels perhaps changed, and bring them to features."""
    repo, store = ensure_applied(Location(REPO, home), ledger_of(home)), PartitionStore.under(home)
    for day in days:
        for feed, event_time in EVENT_TIMES.items():
            folder = landed(home / "lake", feed, day)
            if feed == "arrivals" and change is not None:
                spoil(folder, change)
            store.seal(feed, str(day), folder, event_time=event_time, batch_hash=None, suite_hash=None)
        compute_day(home, str(day), repo=repo, start=START)


def days(first: date, last: date) -> list[date]:
    return [first + n * DAY for n in range((last - first).days)]


def retrain(home: Path, as_of: date, **changes) -> Snapshot:
    """Build what a retraining on the morning of a day trains on: three weeks, the last four days for testing."""
    arguments = {
        "store": PartitionStore.under(home),
        "ledger": ledger_of(home),
        "model": "flight_delay",
        "source_dataset": "departures",
        "entity": "flight_id",
        "event_time": "sched_dep_utc",
        "keys": ["carrier", "origin", "dest"],
        "service": "flight_delay_v1",
        "label_dataset": "arrivals",
        "label": "late_15",
        "matures_after": DAY,
        "window": 21 * DAY,
        "validation": 2 * DAY,
        "test": 4 * DAY,
        "as_of": datetime(as_of.year, as_of.month, as_of.day, 6, tzinfo=UTC),
        "start": START,
    }
    return build_training_snapshot(Location(REPO, home), **{**arguments, **changes})


def trained(home: Path, snapshot: Snapshot) -> Path:
    spec = make_spec(snapshot, epochs=4, batch_size=128)
    return Path(train(spec, home / "trainings" / spec.hash[:16]).saved_model)


def judged(snapshot: Snapshot, model: Path) -> Verdict:
    return judge("flight_delay", BEATS_A_CONSTANT, evaluate(snapshot, model))


# --- the worlds -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """The home on Wednesday morning."""
    home = tmp_path_factory.mktemp("before") / "home"
    home.mkdir()
    run_days(home, days(START, WEDNESDAY))
    return home


def after(before: Path, folder: Path) -> Path:
    home = folder / "home"
    shutil.copytree(before, home, ignore=shutil.ignore_patterns("feast", "ledger.db*"))
    return home


@pytest.fixture(scope="module")
def fault(before, tmp_path_factory) -> Path:
    """Sunday: since Wednesday, every label that landed says "not late"."""
    home = after(before, tmp_path_factory.mktemp("fault"))
    run_days(home, days(WEDNESDAY, SUNDAY), filled_in)
    return home


@pytest.fixture(scope="module")
def normal(before, tmp_path_factory) -> Path:
    """Monday: the feed has caught up."""
    home = after(before, tmp_path_factory.mktemp("normal"))
    run_days(home, days(WEDNESDAY, MONDAY))
    return home


@pytest.fixture(scope="module")
def unguarded(fault) -> tuple[Snapshot, Path]:
    """What Sunday's retraining makes when nobody looks."""
    snapshot = retrain(fault, SUNDAY, label_shift=NO_RATES)
    return snapshot, trained(fault, snapshot)


@pytest.fixture(scope="module")
def honest(normal) -> tuple[Snapshot, Path]:
    """What Monday's retraining makes."""
    snapshot = retrain(normal, MONDAY)
    return snapshot, trained(normal, snapshot)


# --- each defence alone -----------------------------------------------------------------------------------


def test_fault_guard_on_label_watermark(before, tmp_path):
    """Nothing is filled in, nothing has landed: the retraining asks for labels that are not there."""
    home = after(before, tmp_path)
    ensure_applied(Location(REPO, home), ledger_of(home))
    with pytest.raises(DataError, match="The labels have not come far enough") as refused:
        retrain(home, SUNDAY, label_shift=NO_RATES)
    assert "complete from 2013-03-30 up to 2013-04-17 00:00 UTC" in refused.value.detail
    assert "as_of up to 2013-04-17" in refused.value.hint
    assert retrain(home, WEDNESDAY).label_cut == datetime(2013, 4, 16, tzinfo=UTC)


def test_fault_guard_on_positive_rate_of_the_test_split(fault):
    with pytest.raises(DataError, match="rate of positive labels of 3 days is not believable") as refused:
        retrain(fault, SUNDAY)
    for day in (17, 18, 19):
        assert f"2013-04-{day} (0 of " in refused.value.detail
    assert not list(fault.glob("snapshots/*/manifest.json"))


def test_fault_guard_on_positive_rate_of_the_train_split(before, tmp_path):
    """The fault is a fortnight old, and nobody has noticed: the days lie in the middle of the training split.

    Of the third one, the flights that landed after midnight have their labels again.
    """
    home = after(before, tmp_path)
    run_days(home, days(date(2013, 4, 3), date(2013, 4, 6)), filled_in)
    run_days(home, days(date(2013, 4, 6), WEDNESDAY))
    with pytest.raises(DataError, match="rate of positive labels of 2 days is not believable") as refused:
        retrain(home, WEDNESDAY)
    assert "2013-04-03 (0 of " in refused.value.detail
    snapshot = retrain(home, WEDNESDAY, label_shift=NO_RATES)
    assert snapshot.splits["train"].end > datetime(2013, 4, 6, tzinfo=UTC)


def test_fault_guard_on_must_beat_a_constant_predictor(unguarded):
    verdict = judged(*unguarded)
    assert verdict.status is VerdictStatus.FAIL
    assert [check.gate for check in verdict.checks if not check.passed] == ["auc vs baseline min_gain"]


def test_fault_guard_on_an_unknown_label_is_not_negative(before, tmp_path, monkeypatch):
    """Watermark off, joins not judged: flights whose labels have not landed are left out and counted."""
    home = after(before, tmp_path)
    run_days(home, days(WEDNESDAY, SUNDAY))
    for day in days(WEDNESDAY, SUNDAY):
        shutil.rmtree(home / "partitions" / "arrivals" / str(day))
    usual = training_data.every_partition
    monkeypatch.setattr(training_data, "check_watermark", lambda *_: None)
    monkeypatch.setattr(
        training_data,
        "every_partition",
        lambda found, name, *rest: found if name == "arrivals" else usual(found, name, *rest),
    )
    snapshot = retrain(home, SUNDAY, max_join_drop=1.0)
    departures = PartitionStore.under(home).list("departures", WEDNESDAY, date(2013, 4, 19))
    assert snapshot.unlabelled_rows >= sum(partition.rows for partition in departures)
    assert max(read_split(snapshot, "test")["sched_dep_utc"].to_pylist()).date() < WEDNESDAY


def half_renumbered(frame: pd.DataFrame) -> pd.DataFrame:
    """An upstream that gives half of its rows, and all of one carrier, a key that nobody knows."""
    lost = (np.arange(len(frame)) % 2 == 0) | (frame["carrier"] == "US")
    return frame.assign(flight_id=frame["flight_id"].where(~lost, "v2-" + frame["flight_id"]))


def test_fault_guard_on_half_of_the_labels_find_no_row(before, tmp_path):
    """Each label is true and their rate is as ever; half of a week's flights would be left out in silence."""
    home = after(before, tmp_path)
    end = WEDNESDAY + 8 * DAY
    run_days(home, days(WEDNESDAY, end), half_renumbered)
    reports: list[ValidationResult] = []
    with pytest.raises(DataError, match="expectations of 'label_joins' do not hold") as refused:
        retrain(home, end, slices=["carrier", "origin"], report=reports.append)
    assert "all rows, 2013-04-17 to 2013-04-23" in refused.value.detail, reports[0].outcomes
    assert "slice 'US' of 'carrier'" in refused.value.detail
    [recorded] = ledger_of(home).facts("validation", "flight_delay.labels", key=str(end))
    assert recorded.payload == reports[0].model_dump(mode="json")
    unguarded = retrain(home, end, max_join_drop=1.0)
    assert unguarded.unlabelled_rows > 0.1 * sum(split.rows for split in unguarded.splits.values())


# --- end to end -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(before) -> tuple[Snapshot, Path]:
    """What was trained on Wednesday morning, and serves."""
    snapshot = retrain(before, WEDNESDAY)
    return snapshot, trained(before, snapshot)


def test_no_fault_the_mean_prediction_is_the_champions(champion, honest):
    """Nobody is warned of a retraining on whole labels."""
    checks = judge("flight_delay", BEATS_A_CONSTANT, evaluate(*honest, champion[1], "1")).checks
    [reason] = [check.reason for check in checks if check.gate == "mean prediction vs champion"]
    assert not reason.startswith("WARNING: "), reason


@pytest.fixture
def rollout(server, champion, tmp_path, request) -> Iterator[Rollout]:
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        offer(rollout, 1, champion, [])
        yield rollout


def offer(rollout: Rollout, version: int, made: tuple[Snapshot, Path], gates: list[dict[str, object]]) -> VerdictStatus:
    """Judge a version, and let it serve if the ledger says so: as train and deploy do one after the other."""
    snapshot, model = made
    verdict = judge(rollout.model, gates, evaluate(snapshot, model)) if gates else Verdict(
        model=rollout.model, status=VerdictStatus.PASS, checks=(), inputs_hash="nobody looked"
    )  # fmt: skip
    registered = RegisteredModel(
        model=rollout.model, version=str(version), run_id="r", experiment_id="1", source=str(model)
    )
    record_verdict(rollout.ledger, registered, verdict, snapshot_id=snapshot.id)
    if choose_version(rollout.ledger, rollout.model, rollout.server).version == version:
        publish(model, rollout.base, version)
        put_into_service(rollout, version)
    return verdict.status


def answers_like(rollout: Rollout, model: Path) -> bool:
    golden = Golden.read(model)
    return served(rollout, golden.inputs) == pytest.approx(golden.outputs["probability"], abs=1e-5)


def test_fault_guard_on_sunday_changes_no_answer_and_monday_promotes(rollout, champion, unguarded, honest):
    """The watermark and the rates are off: what is left is the gate."""
    assert answers_like(rollout, champion[1])
    assert offer(rollout, 2, unguarded, BEATS_A_CONSTANT) is VerdictStatus.FAIL
    assert answers_like(rollout, champion[1])
    assert offer(rollout, 3, honest, BEATS_A_CONSTANT) is VerdictStatus.PASS
    assert answers_like(rollout, honest[1])


def test_fault_guard_off_sundays_model_answers(rollout, champion, unguarded):
    offer(rollout, 2, unguarded, [])
    assert answers_like(rollout, unguarded[1])
    assert not answers_like(rollout, champion[1])


# --- without them -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fault_guard_off(fault, normal, honest):
    """Split by aircraft, the false labels are trained on too: the model says that hardly a flight will be late."""
    by_aircraft = SplitRule(kind="entity", column="tailnum")
    snapshot = retrain(fault, SUNDAY, label_shift=NO_RATES, split_rule=by_aircraft, window=7 * DAY, test=DAY)
    flights, model = honest
    inputs = read_inputs(read_split(flights, "test"), flights.features)
    was = np.asarray(read_split(flights, "test")["late_15"]).mean()
    said = {"unguarded": score(trained(fault, snapshot), inputs).mean(), "honest": score(model, inputs).mean()}
    assert said["unguarded"] < 0.5 * min(said["honest"], was)


def test_no_fault_mondays_retraining_passes(honest):
    assert judged(*honest).status is VerdictStatus.PASS


@pytest.mark.slow
def test_no_fault_a_retraining_every_morning(normal):
    for morning in days(date(2013, 4, 12), MONDAY + DAY):
        assert retrain(normal, morning, slices=["carrier", "origin"]).label_cut.date() == morning - DAY
