"""A training seen from outside: how far it is, whether it stands still, whether it will be late, when it explodes."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_mlops.contracts import TrainingProgress, TrainingSpec
from airflow_mlops.engine.devices import usage
from airflow_mlops.engine.devices.usage import Usage
from airflow_mlops.engine.training import progress as module
from airflow_mlops.engine.training import watch
from airflow_mlops.engine.training.finish import LossGuard, resources
from airflow_mlops.engine.training.options import Options, options
from airflow_mlops.engine.training.progress import Lines, ProgressReport, add_line, begin_lines, read_lines
from airflow_mlops.engine.training.spending import Spending
from airflow_mlops.engine.training.watch import Watch, read_progress
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TrainingError
from tests.training_fixtures import START, make_snapshot, make_spec

ROWS = 100


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    (tmp_path / "t").mkdir()
    return Workdir(tmp_path / "t")


@pytest.fixture
def spec(tmp_path: Path) -> TrainingSpec:
    return make_spec(make_snapshot(tmp_path, rows=ROWS), epochs=10, batch_size=10)


@contextmanager
def watched(
    workdir: Workdir, *, deadline: float = 60, patience: float = 60, spending: Spending | None = None
) -> Iterator[tuple[list[TrainingProgress], threading.Event]]:
    seen: list[TrainingProgress] = []
    ended = threading.Event()
    with Watch(
        workdir,
        logging.getLogger("task"),
        usage=Usage(os.getpid()),
        deadline=time.monotonic() + deadline,
        spending=spending or Spending(workdir),
        patience=patience,
        give_up=ended.set,
        follow=seen.append,
    ):
        yield seen, ended


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_LOOKS", 0.01)


def test_progress_says_speed_what_is_left_and_the_times_of_the_data(spec: TrainingSpec, workdir: Workdir, caplog):
    caplog.set_level(logging.INFO)
    report = ProgressReport(spec, workdir)
    time.sleep(0.1)
    report.write(2, 5, 150, {"loss": 0.5}, Lines({"loss": [0.7]}, (1.0,)))
    found = read_progress(workdir)
    assert found is not None
    assert (found.epoch, found.epochs, found.step, found.examples, found.examples_left) == (2, 10, 5, 150, 850)
    assert 500 < found.examples_per_second < 1600
    assert found.seconds_left == pytest.approx(850 / found.examples_per_second, abs=0.1)
    assert found.oldest_event_time == START
    assert found.newest_event_time == spec.snapshot.splits["train"].end.replace(minute=39)
    assert str(found).startswith("epoch 2/10, step 5: ")
    assert not caplog.text, "a line four times a minute is enough"
    assert not report.due


def test_one_that_goes_on_is_as_fast_as_it_is_now(spec: TrainingSpec, workdir: Workdir):
    report = ProgressReport(spec, workdir, done=900)
    time.sleep(0.1)
    report.write(10, 1, 910, {}, Lines({}, ()))
    found = read_progress(workdir)
    assert found is not None
    assert found.examples_per_second < 110, "what an earlier try has done is not of this one"


def test_one_that_stands_still_is_given_up(spec: TrainingSpec, workdir: Workdir):
    report = ProgressReport(spec, workdir)
    with watched(workdir, patience=0.3) as (seen, ended):
        for done in range(5):
            report.write(1, done, done * 10, {}, Lines({}, ()))
            time.sleep(0.05)
        assert not ended.is_set()
        assert ended.wait(5)
    assert len(seen) >= 4


def test_one_that_reports_seldom_has_the_time_that_it_takes(spec: TrainingSpec, workdir: Workdir):
    report = ProgressReport(spec, workdir)
    with watched(workdir, patience=0.6) as (_, ended):
        for done in range(2):
            report.write(1, done, done * 10, {}, Lines({}, ()))
            time.sleep(0.4)
        time.sleep(0.6)
        assert not ended.is_set(), "five times as long as its longest pause"
        assert ended.wait(5)


def test_one_that_says_nothing_is_not_given_up(workdir: Workdir):
    with watched(workdir, patience=0.05) as (seen, ended):
        assert not ended.wait(0.3)
    assert not seen


def test_that_it_will_be_late_is_said_once_and_before_it_is(spec: TrainingSpec, workdir: Workdir, caplog):
    report = ProgressReport(spec, workdir)
    with watched(workdir, deadline=20):
        time.sleep(0.1)
        report.write(1, 1, 100, {}, Lines({}, ()))
        time.sleep(0.1)
        assert "deadline" not in caplog.text
        report._seen.append((time.monotonic() - 100, 0))  # ten times slower
        for done in (101, 102):
            report._seen = type(report._seen)([(time.monotonic() - 10, 100)])
            report.write(1, 1, done, {}, Lines({}, ()))
            time.sleep(0.1)
    assert caplog.text.count("will miss its deadline") == 1
    assert "to do it in, if all 10 epochs are made" in caplog.text


def test_that_it_will_cost_too_much_is_said_once_and_before_it_does(spec: TrainingSpec, workdir: Workdir, caplog):
    report = ProgressReport(spec, workdir)
    report._seen.append((time.monotonic() - 10, 0))  # ten rows a second, so ninety seconds are left
    spending = Spending(workdir, price=3600, max_cost=50)
    with watched(workdir, deadline=1000, spending=spending), spending.counting():
        for done in (100, 101):
            report._seen = type(report._seen)([(time.monotonic() - 10, done - 100)])
            report.write(1, 1, done, {}, Lines({}, ()))
            time.sleep(0.1)
    assert caplog.text.count("will pass its price limit: it would cost 9") == 1
    assert "and max_cost is 50. It is stopped then, and what it has done is kept" in caplog.text
    assert "deadline" not in caplog.text


def test_what_it_has_cost_is_written_down_before_the_last_of_it_is_kept_elsewhere(workdir: Workdir):
    spending = Spending(workdir, price=1)
    with spending.counting():
        with watched(workdir, spending=spending):
            time.sleep(0.1)
        assert json.loads(workdir.spent.read_text())["seconds"] >= 0.1


def test_what_is_used_of_the_machine_is_told_also_of_one_that_reports_seldom(
    spec: TrainingSpec, workdir: Workdir, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(usage, "_EVERY", 0.1)
    with watched(workdir) as (seen, _):
        ProgressReport(spec, workdir).write(1, 1, 100, {}, Lines({}, ()))
        deadline = time.monotonic() + 20
        while sum(bool(one.usage) for one in seen) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    told = next(one.usage for one in seen if one.usage)
    assert told["system/memory_usage_megabytes"] > 10
    assert told["system/cpu_utilization_percentage"] >= 0
    assert told["system/bytes_read_megabytes"] > 0


# --- what fit functions and scripts report ----------------------------------------------------------------


def test_two_tries_are_one_history(workdir: Workdir):
    begin_lines(workdir)
    for epoch, loss in enumerate((0.5, 0.4, 0.3), 1):
        add_line(workdir, epoch, {"loss": loss})
    (workdir.checkpoints / "after-2").touch()
    with workdir.lines.open("a") as file:
        file.write('{"epoch": 4, "lo')  # killed
    begin_lines(workdir)
    for epoch, loss in ((3, 0.31), (4, 0.2)):
        add_line(workdir, epoch, {"loss": loss})
    lines = read_lines(workdir)
    assert lines.history == {"loss": [0.5, 0.4, 0.31, 0.2]}
    assert len(lines.times) == 4
    assert lines.last == {"epoch": 4, "loss": 0.2}
    (workdir.checkpoints / "after-2").unlink()
    begin_lines(workdir)
    assert read_lines(workdir).history == {}, "nothing to go on from: it begins anew"


def test_a_phase_may_count_its_epochs_from_one_again(workdir: Workdir):
    begin_lines(workdir)
    for epoch in (1, 2, 1, 2):
        add_line(workdir, epoch, {"loss": epoch / 10})
    assert read_lines(workdir).history == {"loss": [0.1, 0.2, 0.1, 0.2]}


def test_lines_of_a_script_may_have_no_times(workdir: Workdir):
    workdir.checkpoints.mkdir()
    workdir.lines.write_text(json.dumps({"loss": 0.4}) + "\n")
    assert read_lines(workdir) == Lines({"loss": [0.4]}, (), {"loss": 0.4})


# --- guards -----------------------------------------------------------------------------------------------


def test_a_loss_that_explodes_ends_it():
    guard = LossGuard()
    guard.check({"loss": 0.7, "val_loss": 5.0, "auc": 0.5}, 1)
    guard.check({"loss": 600.0, "val_loss": 4000.0, "auc": 1e9}, 2)
    with pytest.raises(TrainingError, match=r"val_loss explodes: 5001 after epoch 3, and 5 at first(.|\n)*clipnorm"):
        guard.check({"loss": 0.7, "val_loss": 5001.0}, 3)


@pytest.mark.parametrize("first", [1e-9, 0.0, -3.0])
def test_from_next_to_nothing_a_thousandfold_is_little(first: float):
    guard = LossGuard()
    guard.check({"loss": first}, 1)
    guard.check({"loss": 0.9}, 2)


def test_what_it_took_has_a_price_where_one_is_said(monkeypatch: pytest.MonkeyPatch):
    taken = resources(Options(spent=3600))
    assert not taken.keys() & {"cost", "gpu_seconds"}
    assert taken["cpu_seconds"] > 0
    assert taken["peak_memory_bytes"] > 10_000_000
    for name, value in Options(price=2.5, spent=3600, gpus=2).as_environment().items():
        monkeypatch.setenv(name, value)
    taken = resources(options())
    assert taken["cost"] == pytest.approx(2.5 * taken["wall_seconds"] / 3600, abs=1e-4)
    assert taken["cost"] > 2.5, "of all tries"
    assert taken["gpu_seconds"] == pytest.approx(2 * taken["wall_seconds"], abs=0.02)


def test_the_file_is_written_seldom(spec: TrainingSpec, workdir: Workdir, monkeypatch: pytest.MonkeyPatch):
    report = ProgressReport(spec, workdir)
    assert report.due
    report.write(1, 1, 10, {}, Lines({}, ()))
    assert not report.due
    monkeypatch.setattr(module, "_WRITTEN", 0)
    assert report.due
