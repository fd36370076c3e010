"""What asks for a training, from a real ledger and the profiles of sealed days; no row is read for it."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import Pin
from airflow_mlops.engine.data import profiles
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.features.computing.files import revision_of, write_day
from airflow_mlops.engine.features.governance.consumers import read_by
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.halts import halt
from airflow_mlops.engine.retraining import drift, feature_days
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.drift import psi
from airflow_mlops.engine.retraining.looking import admit, look_and_decide, served_age
from airflow_mlops.engine.retraining.registered import Registered, record_registered
from airflow_mlops.engine.retraining.requests import ask, request_of, requests, settle, start
from airflow_mlops.engine.retraining.triggers import Trigger, look
from airflow_mlops.engine.retraining.why import why
from airflow_mlops.engine.serving.deployments import deployment
from tests.retraining_fixtures import ROWS, SERVER, TRAINED, World, at, trained_world

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("retraining")
    trained_world(home)
    return home


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    from airflow_mlops.engine.ledger import Ledger

    shutil.copytree(made, tmp_path / "home")
    return World(tmp_path / "home", Ledger(f"sqlite:///{tmp_path}/home/ledger.db"))


def serving(world: World) -> int | None:
    return deployment(world.ledger, SERVER, "m")[0].stable


def found(world: World, **changes: object) -> Trigger:
    [trigger] = look(world.ledger, world.store, world.home, world.watch(**changes), serving(world))[1]
    return trigger


def decided(world: World, cooldown: timedelta = DAY, state_of=lambda run: "running", **changes: object):
    running = settle(world.ledger, "m", state_of)
    watch = world.watch(**changes)
    policy = Policy(cooldown)
    return look_and_decide(
        world.ledger, world.store, world.home, watch=watch, policy=policy, who="m.retrain", running=running
    )


def test_new_rows_are_those_with_matured_labels(world: World):
    assert found(world, new_rows=2 * ROWS).value == 0
    world.seal_days(TRAINED + 1, TRAINED + 4)
    trigger = found(world, new_rows=3 * ROWS)
    assert (trigger.fires, trigger.value) == (True, 3 * ROWS)
    assert f"{ROWS} more have no matured label yet" in trigger.detail
    world.seal(TRAINED + 4)
    assert found(world, new_rows=3 * ROWS).value == 3 * ROWS, "its outcomes have not come yet"
    world.train(2, TRAINED + 4)
    assert found(world, new_rows=3 * ROWS).value == 0


def test_what_a_person_excluded_asks_for_nothing(world: World):
    world.seal_days(TRAINED + 1, TRAINED + 8)
    world.seal_days(TRAINED + 8, TRAINED + 11, shift=3.0)
    assert found(world, drift_psi=0.2).fires
    exclude(world.ledger, "orders", at(TRAINED + 8), at(TRAINED + 11), "a bad feed", "ann")
    assert not found(world, drift_psi=0.2).fires
    assert found(world, new_rows=10 * ROWS).value == 8 * ROWS


def test_a_feed_that_has_ended_keeps_the_others_from_nothing(world: World):
    world.seal_days(TRAINED + 1, TRAINED + 8, shift=2.0)
    trigger = found(world, drift_psi=0.2, inputs=("orders", "airports"))
    assert trigger.fires
    assert "not a week of new data yet: airports" in trigger.detail


def test_drift_names_the_column_and_leaves_out_what_always_moves(world: World):
    assert "not a week of data yet" in found(world, drift_psi=0.2).detail
    world.seal_days(TRAINED + 1, TRAINED + 8)
    quiet = found(world, drift_psi=0.2)
    assert (quiet.fires, quiet.bound) == (False, 0.2)
    assert quiet.value is not None
    assert quiet.value < 0.05
    assert "moved in training already: orders.month" in quiet.detail
    world.seal_days(TRAINED + 8, TRAINED + 15, shift=1.0)
    trigger = found(world, drift_psi=0.2)
    assert trigger.fires
    assert trigger.detail.startswith("PSI of 2 columns, bound 0.2: orders.km 1.")


def test_each_profile_is_read_once_and_no_row_ever(world: World, monkeypatch: pytest.MonkeyPatch):
    world.seal_days(TRAINED + 1, TRAINED + 8)
    before = found(world, drift_psi=0.2)
    monkeypatch.setattr(drift, "parse_profile", lambda text: pytest.fail("a profile was read again"))
    monkeypatch.setattr(profiles, "profile_files", lambda *args, **kwargs: pytest.fail("rows were read"))
    shutil.rmtree(world.home / "lake")
    for file in (world.home / "partitions").rglob("*.parquet"):
        file.unlink()
    assert found(world, drift_psi=0.2) == before


def compute(world: World, first: int, last: int, *, shift: float = 0.0) -> dict[str, str]:
    """Write days of a feature view that a version reads one column of; return key → revision."""
    for day in range(first, last):
        rng = np.random.default_rng(1000 + day)
        times = [at(day) + timedelta(hours=12)] * ROWS
        columns = {"at": times, "carrier": ["AA"] * ROWS, "mean_km": rng.normal(shift, 1.0, ROWS)}
        columns["unread"] = rng.normal(5.0 * shift, 1.0, ROWS)
        write_day(world.home, "carriers", at(day).date().isoformat(), pa.table(columns))
    keys = [at(day).date().isoformat() for day in range(first, last)]
    return {key: revision_of(feature_file(world.home, "carriers", key)) for key in keys}


def test_drift_is_that_of_computed_features_too(world: World, monkeypatch: pytest.MonkeyPatch):
    """The feed has not moved, and what is computed of it has: each day's rows are read once, when it is new."""
    manifest = world.home / "snapshots" / "snapshot1" / "manifest.json"
    pins = {"carriers": compute(world, 0, TRAINED)}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "feature_files": pins}))
    read = read_by(world.ledger, "m", 1).model_copy(update={"features": ("carriers:mean_km", "gone:mean")})
    world.ledger.record("model_features", "m", read.model_dump(mode="json"), key="1")
    world.seal_days(TRAINED + 1, TRAINED + 8)
    compute(world, TRAINED, TRAINED + 8)
    quiet = found(world, drift_psi=0.2)
    assert not quiet.fires
    assert "PSI of 3 columns" in quiet.detail, "what the version does not read does not count"
    compute(world, TRAINED, TRAINED + 8, shift=1.0)
    trigger = found(world, drift_psi=0.2)
    assert trigger.fires
    assert trigger.detail.startswith("PSI of 3 columns, bound 0.2: features.carriers.mean_km ")
    monkeypatch.setattr(feature_days, "profile_files", lambda *args, **kwargs: pytest.fail("rows were read again"))
    assert found(world, drift_psi=0.2) == trigger
    exclude(world.ledger, "orders", at(TRAINED), at(TRAINED + 8), "a bad feed", "ann")
    assert not found(world, drift_psi=0.2).fires


def test_the_index_is_that_of_the_books():
    assert psi([50, 50], [50, 50]) == 0
    assert psi([500, 500], [250, 750]) == pytest.approx(0.2746, abs=0.002)
    assert psi([100, 0], [0, 100]) > 5


def test_a_new_service_asks_for_a_training(world: World):
    assert not found(world, on_new_features=True).fires
    changed = found(world, on_new_features=True, service="m_v2")
    assert (changed.fires, changed.detail) == (True, "the feature service is m_v2, was m_v1")


def predict(world: World, day: int, *, good: bool, version: int = 1) -> None:
    """Seal predictions of a day, as batch prediction does."""
    key = at(day).date().isoformat()
    rows = world.store.read([world.store.get("outcomes", key)], ["id", "late"]).to_pylist()
    answers = [(0.9 if row["late"] == good else 0.1) + n / 1e6 for n, row in enumerate(rows)]
    seal_predictions(world, day, {"id": [row["id"] for row in rows], "probability": answers}, version=version)


def seal_predictions(world: World, day: int, columns: dict[str, Any], *, version: int) -> None:
    key = at(day).date().isoformat()
    folder = world.home / "predicted" / key
    folder.mkdir(parents=True)
    times = [at(day) + timedelta(hours=12)] * len(columns["id"])
    pq.write_table(pa.table({"at": times, **columns}), folder / "rows.parquet")
    hashed = batch_hash(parquet_files(folder))
    sealed = world.store.seal("m.predictions", key, folder, event_time="at", batch_hash=hashed, suite_hash=None)
    told = {"revision": sealed.revision, "model": "m", "version": str(version)}
    world.ledger.record("prediction", "m.predictions", told, key=key)


def test_decay_is_that_of_what_was_predicted_in_time(world: World):
    decay = ("auc", 0.02)
    assert "m.batch_predict does that" in found(world, decay=decay).detail
    world.seal_days(TRAINED + 1, TRAINED + 9)
    for day in range(TRAINED, TRAINED + 4):
        predict(world, day, good=True)
    well = found(world, decay=decay)
    assert not well.fires
    assert well.value == pytest.approx(0.75 - 1.0)
    assert f"is 1.0000 on {4 * ROWS} matured labels, was 0.7500" in well.detail
    for day in range(TRAINED + 4, TRAINED + 8):
        predict(world, day, good=False)
    badly = found(world, decay=decay)
    assert badly.fires
    assert badly.value == pytest.approx(0.25)
    predict(world, TRAINED + 8, good=False)
    assert found(world, decay=decay) == badly, "its labels have not matured"
    world.serve(2)
    assert "was not written down" in found(world, decay=decay).detail


def test_decay_of_classes_is_that_of_all_their_probabilities(world: World):
    """The carrier is predicted of each order; one that the model never saw is counted apart."""
    classes = ["AA", "DL"]  # UA has come since
    manifest = world.home / "snapshots" / "snapshot1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "problem": "multiclass", "classes": classes}))
    asked = {"decay": ("accuracy", 0.1), "label": "carrier", "problem": "multiclass"}
    made = Registered(
        model="m", version=2, spec_hash="s", snapshot="snapshot1", run="m.train run2", metrics={"accuracy": 0.9}
    )
    record_registered(world.ledger, made)
    world.serve(2)
    world.seal_days(TRAINED + 1, TRAINED + 9)
    others = 0
    for day, right in ((TRAINED, 1.0), *((TRAINED + n, 0.5) for n in range(1, 8))):
        key = at(day).date().isoformat()
        rows = world.store.read([world.store.get("outcomes", key)], ["id", "carrier"]).to_pylist()
        others += sum(row["carrier"] == "UA" for row in rows)
        hit = [n < right * len(rows) for n in range(len(rows))]
        said = [
            [0.8, 0.2] if (row["carrier"] == "AA") == good else [0.2, 0.8] for row, good in zip(rows, hit, strict=True)
        ]
        answers = pa.array(said, pa.list_(pa.float32()))
        seal_predictions(world, day, {"id": [row["id"] for row in rows], "probabilities": answers}, version=2)
    decayed = found(world, **asked)
    assert decayed.fires
    assert 0.2 < decayed.value < 0.45, decayed.detail
    assert f"{others} more are of classes that it never saw" in decayed.detail
    manifest.unlink()
    assert found(world, **asked) == decayed, "each partition is held against its labels once"


def test_before_the_first_training_nothing_asks(tmp_path: Path):
    from airflow_mlops.engine.ledger import Ledger

    world = World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    basis, triggers = look(world.ledger, world.store, world.home, world.watch(new_rows=5, drift_psi=0.2), None)
    assert basis is None
    assert [(one.reason, one.fires) for one in triggers] == [("new_rows", False), ("drift", False)]
    assert decided(world, new_rows=5).start is None


def test_it_is_asked_once_started_once_and_asked_again_when_it_failed(world: World):
    world.seal_days(TRAINED + 1, TRAINED + 4)
    first = decided(world, new_rows=ROWS)
    assert first.start is not None
    assert decided(world, new_rows=ROWS).start == first.start, "the bell rang twice"
    assert len(requests(world.ledger, "m")) == 1
    assert admit(world.ledger, first.start, "m.train retrain__1", Policy()).start is not None
    assert "one runs already" in decided(world, new_rows=ROWS).why
    held = decided(world, new_rows=ROWS, state_of=lambda run: "failed")
    assert held.why.startswith("cooling down until")
    again = decided(world, cooldown=timedelta(0), new_rows=ROWS)
    assert again.start is not None
    assert again.start.id != first.start.id
    world.train(2, TRAINED + 4)
    assert not found(world, new_rows=ROWS).fires


def test_a_schedule_waits_for_the_cool_down_and_answers_what_waits(world: World):
    ledger = world.ledger
    waiting = ask(ledger, "m", "drift", "km", key="drift:1", who="m.retrain")
    cron = ask(ledger, "m", "cron", "the schedule", key="cron:1", who="m.train")
    assert admit(ledger, cron, "m.train s1", Policy(DAY)).merged == (waiting,)
    assert request_of(ledger, "m", waiting.id).state == "merged"
    after = ask(ledger, "m", "cron", "the schedule", key="cron:2", who="m.train")
    assert admit(ledger, after, "m.train s2", Policy(DAY)).start == after, "a schedule does not cool itself"
    hand = ask(ledger, "m", "hand", "now", key="run:1", who="ann")
    assert admit(ledger, hand, "m.train h1", Policy(DAY)).start == hand
    third = ask(ledger, "m", "cron", "the schedule", key="cron:3", who="m.train")
    held = admit(ledger, third, "m.train s3", Policy(DAY))
    assert held.start is None
    assert held.why.endswith("since the training for hand: now")
    skipped = request_of(ledger, "m", third.id)
    assert (skipped.state, skipped.said) == ("skipped", held.why)
    assert admit(ledger, skipped, "m.train s3", Policy(DAY)).start is not None, "a person cleared it"
    assert admit(ledger, request_of(ledger, "m", waiting.id), "m.train retrain__1", Policy()).start is None


def test_a_halt_holds_and_a_pin_is_named(world: World):
    world.seal_days(TRAINED + 1, TRAINED + 4)
    pin = Pin(version=1, who="ann", reason="bad week", at=datetime.now(UTC))
    world.serve(1, pin=pin)
    assert "not deployed while version 1 is pinned by ann" in decided(world, new_rows=ROWS).why
    halt(world.ledger, "m", "ann", "wrong labels")
    assert decided(world, new_rows=ROWS).why == "m is halted by ann until somebody resumes: wrong labels"


def test_why_says_what_started_and_what_is_missing(world: World, capsys: pytest.CaptureFixture[str]):
    world.seal_days(TRAINED + 1, TRAINED + 4)
    made = decided(world, new_rows=ROWS, drift_psi=0.2)
    start(world.ledger, made.start, "m.train retrain__1", said=made.why)
    decided(world, new_rows=5000, drift_psi=0.2, state_of=lambda run: "success")
    assert main(["why", "m", "--home", str(world.home), "--ledger", world.ledger.url]) == 0
    said = capsys.readouterr().out
    assert "run m.train retrain__1, done" in said
    assert f"new_rows: {3 * ROWS} new rows since 2026-01-25, {ROWS} are asked for" in said
    assert f"quiet  new_rows: {3 * ROWS} new rows since 2026-01-25, 5,000 are asked for" in said
    assert "quiet  drift: orders: not a week of data yet" in said


def test_new_code_waits_for_the_first_of_its_fleet(world: World):
    """Whatever asks: with the code of its last version it is trained, with other code once the first has passed."""
    world.seal_days(TRAINED + 1, TRAINED + 4)

    def registers(model: str, version: int, code: str, status: str = "PASS") -> None:
        told = {"spec_hash": f"{model}{version}", "snapshot": "s", "run": f"{model}.train {version}", "code": code}
        record_registered(world.ledger, Registered(model=model, version=version, **told))
        world.ledger.record("verdict", model, {"version": version, "status": status, "snapshot_id": "s"})

    def looks(code: str):
        return decided(world, new_rows=ROWS, first="m_de", code=code)

    assert looks("new").start is not None, "of its last version it is not known"
    registers("m", 2, "old")
    assert looks("old").start is not None
    assert looks("").start is not None
    held = looks("new")
    assert held.start is None
    assert held.why == "its code is new, and no version of m_de has passed its gates with it yet"
    assert any(held.why in line for line in why(world.ledger, "m"))
    registers("m_de", 5, "new", "FAIL")
    registers("m_de", 6, "other")
    assert looks("new").start is None
    registers("m_de", 7, "new")
    assert looks("new").start is not None


def test_why_before_the_first_training_says_what_starts_one(world: World, capsys: pytest.CaptureFixture[str]):
    assert main(["why", "mm", "--home", str(world.home), "--ledger", world.ledger.url]) == 0
    first, *more = capsys.readouterr().out.splitlines()
    assert first == "no training of 'mm' was asked for yet"
    assert "by hand: airflow dags trigger mm.train" in more[0]
    assert more[-1] == "this model was never trained. Did you mean 'm'?"
    halt(world.ledger, "new", "ann", "not yet")
    assert "halted" in list(why(world.ledger, "new"))[1]


def test_the_age_of_what_serves_is_that_of_its_labels(world: World):
    assert served_age(world.ledger, SERVER, "m", at(TRAINED) + 15 * DAY) == (1, 15 * DAY)
    assert served_age(world.ledger, SERVER, "other", at(TRAINED)) == (None, None)
    assert next(why(world.ledger, "m")) == "no training was asked for yet"
