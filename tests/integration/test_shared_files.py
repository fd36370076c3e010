"""The cache of a home in a bucket: what is fetched, what is not, and storage that fails."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from airflow_mlops.contracts import Evaluation
from airflow_mlops.engine.data import shared
from airflow_mlops.engine.data.shared import discard, fetch, fetch_views, origin, publishing, send, share, withdraw
from airflow_mlops.engine.data.snapshots import load_snapshot, read_split
from airflow_mlops.engine.devices.usage import Usage
from airflow_mlops.engine.features.computing.files import current_pins, pinned_paths, write_day
from airflow_mlops.engine.training import watch
from airflow_mlops.engine.training.checkpoints import Checkpoints, Position
from airflow_mlops.engine.training.spending import Spending
from airflow_mlops.engine.training.watch import Watch
from airflow_mlops.engine.training.workdir import Workdir, finished_training, read_evaluation
from airflow_mlops.exceptions import DataError, TransientError
from tests.faulty_s3 import FaultyS3, faulty_s3
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.training_fixtures import copy_of, make_snapshot, trained

VIEW = "zone_delays"


@pytest.fixture
def s3(client, endpoint) -> Iterator[FaultyS3]:  # noqa: F811
    with faulty_s3(endpoint) as server:
        yield server


class Machine:
    """A worker with a cache of its own."""

    def __init__(self, cache: Path, s3: FaultyS3) -> None:
        self.home = cache
        self.s3 = s3

    def __enter__(self) -> Path:
        shared._shares.clear()  # a process works for one machine
        remote = UPath("s3://lake/mlops", endpoint_url=self.s3.url, config_kwargs={"retries": {"max_attempts": 0}})
        remote.fs.retries = 2
        share(self.home, remote)
        self.s3.since()
        return self.home

    def __exit__(self, *_: object) -> None:
        shared._shares.clear()


@pytest.fixture
def here(s3, tmp_path) -> Machine:
    return Machine(tmp_path / "here", s3)


@pytest.fixture
def there(s3, tmp_path) -> Machine:
    return Machine(tmp_path / "there", s3)


def rows(value: float) -> pa.Table:
    return pa.table({"zone": ["a"], "rate": [value]})


def rate(home: Path, key: str) -> float:
    return pq.read_table(home / "features" / VIEW / f"{key}.parquet")["rate"][0].as_py()


def gets(s3: FaultyS3) -> list[str]:
    """Return which files were fetched."""
    return [asked.rpartition("/")[2] for asked in s3.since() if asked.startswith("GET ") and "?" not in asked]


# --- what is fetched --------------------------------------------------------------------------------------


def test_a_changed_file_is_fetched_again_and_an_unchanged_one_is_not(here, there, s3):
    with here as home:
        for key, value in (("2024-03-01", 0.1), ("2024-03-02", 0.2)):
            write_day(home, VIEW, key, rows(value))
    with there as home:
        fetch_views(home, [VIEW])
        assert sorted(gets(s3)) == ["2024-03-01.parquet", "2024-03-02.parquet"]
        assert (rate(home, "2024-03-01"), rate(home, "2024-03-02")) == (0.1, 0.2)
        fetch_views(home, [VIEW])
        assert [asked[:3] for asked in s3.since()] == ["GET"]  # one listing, and nothing else
    with here as home:
        pins = current_pins(home, [(VIEW, "2024-03-02")])
        write_day(home, VIEW, "2024-03-02", rows(0.3))
    with there as home:
        fetch_views(home, [VIEW])
        assert gets(s3) == ["2024-03-02.parquet"]
        assert rate(home, "2024-03-02") == 0.3
        # What it replaced is fetched when somebody pinned it.
        assert not (home / "features" / VIEW / "superseded").exists()
        replaced = pinned_paths(home, pins)[VIEW]["2024-03-02"]
        assert pq.read_table(replaced)["rate"][0].as_py() == 0.2


def test_a_file_that_was_touched_here_or_removed_there_does_not_count(here, there, client):  # noqa: F811
    with here as home:
        for key in ("2024-03-01", "2024-03-02"):
            write_day(home, VIEW, key, rows(0.1))
    with there as home:
        fetch_views(home, [VIEW])
        file = home / "features" / VIEW / "2024-03-01.parquet"
        size = file.stat().st_size
        file.write_bytes(b"x" * size)
        fetch_views(home, [VIEW])
        assert rate(home, "2024-03-01") == 0.1
        mine = file.with_name("2024-03-09.parquet")  # in the making: nobody sent it yet
        mine.write_bytes(b"x")
        client.delete_object(Bucket="lake", Key=f"mlops/features/{VIEW}/2024-03-02.parquet")
        fetch_views(home, [VIEW])
        assert sorted(path.name for path in file.parent.glob("*.parquet")) == [file.name, mine.name]


def test_a_writer_supersedes_what_another_machine_wrote(here, there, client):  # noqa: F811
    with here as home:
        write_day(home, VIEW, "2024-03-01", rows(0.1))
    with there as home:
        write_day(home, VIEW, "2024-03-01", rows(0.2))
    [old] = keys(client, f"mlops/features/{VIEW}/superseded")
    assert old.startswith(f"mlops/features/{VIEW}/superseded/2024-03-01.")
    with here as home:
        fetch_views(home, [VIEW])
        assert rate(home, "2024-03-01") == 0.2


def test_what_never_changes_is_asked_for_once(here, there, s3):
    with here as home:
        made = make_snapshot(home, rows=50)
        send(Path(made.uri))
    with there as home:
        snapshot = load_snapshot(home, made.id)
        assert s3.since()
        assert read_split(load_snapshot(home, made.id), "train").num_rows == made.splits["train"].rows
        assert s3.since() == []
        # A file that is not what was written is fetched again.
        file = Path(snapshot.uri) / "train.parquet"
        file.write_bytes(b"x")
        assert read_split(snapshot, "train").num_rows == made.splits["train"].rows
        assert gets(s3) == ["train.parquet"]
    with here as home:
        send(Path(made.uri))
        assert not [asked for asked in s3.since() if asked.startswith(("PUT", "POST", "DELETE"))]


def test_a_half_uploaded_folder_is_not_there(here, there, client):  # noqa: F811
    with here as home:
        make_snapshot(home, rows=50)
        send(home / "snapshots" / "snap1")
    client.delete_object(Bucket="lake", Key="mlops/snapshots/snap1/manifest.json")
    with there as home:
        with pytest.raises(DataError, match="There is no snapshot 'snap1'") as refused:
            load_snapshot(home, "snap1")
        assert "s3://lake/mlops/snapshots holds 0" in refused.value.detail
        assert not (home / "snapshots" / "snap1").exists()
    with here as home:
        shutil.rmtree(home / "snapshots")
        make_snapshot(home, rows=50)
        send(home / "snapshots" / "snap1")
    with there as home:
        assert load_snapshot(home, "snap1").id == "snap1"


def test_a_training_with_its_evaluations(here, there, client):  # noqa: F811
    with here as home:
        workdir = copy_of(trained(), home / "trainings" / "t1")
        send(workdir.path)
        send(workdir.path)
    found = keys(client, "mlops/trainings/t1/")
    assert "mlops/trainings/t1/saved_model/saved_model.pb" in found
    assert not any("/." in key for key in found)
    evaluation = Evaluation(snapshot_id="snap1", split="test", rows=1, metrics={})
    with there as home:
        _spec, result = finished_training(home / "trainings" / "t1")
        assert Path(result.saved_model).is_relative_to(home)
        kept = Workdir(home / "trainings" / "t1").keep(evaluation)
    with here as home:
        assert read_evaluation(home / "trainings" / "t1" / kept.name) == evaluation
        withdraw(home / "trainings" / "t1")
        assert Workdir(home / "trainings" / "t1").result.exists()
    assert keys(client, "mlops/trainings/t1/") == []
    with there as home, pytest.raises(DataError, match="no finished training"):
        finished_training(home / "trainings" / "t1")


def test_a_folder_that_is_replaced_has_nothing_of_before(here, there):
    staged = ("staged", "rides", "2024-03-01")
    for names in (("a.parquet", "b.parquet"), ("a.parquet",)):
        with here as home:
            folder = home.joinpath(*staged)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in (*names, "_staged.json"):
                (folder / name).write_text(f"{names}")
            send(folder)
        with there as home:
            fetch(home.joinpath(*staged))
            assert sorted(path.name for path in home.joinpath(*staged).iterdir()) == ["_staged.json", *names]


def test_other_folders_are_of_one_machine(here, tmp_path, s3, client):  # noqa: F811
    with here as home:
        for path in (home / "feast" / "registry.db", home / "models" / "m" / "1", tmp_path / "elsewhere"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
            send(path)
            fetch(path)
        assert s3.since() == []
        assert str(origin(home / "partitions")) == "s3://lake/mlops/partitions"
    assert keys(client) == []
    assert origin(tmp_path) == tmp_path


# --- storage that fails -----------------------------------------------------------------------------------


def write_report(home: Path, text: str) -> None:
    with publishing(home / "reports" / "a.html") as page:
        page.write_text(text)


def test_storage_that_is_busy_is_asked_again_and_then_told_of_in_words(here, s3, client):  # noqa: F811
    with here as home:
        times = iter(range(1))
        s3.busy = lambda _method, _path: next(times, None) is not None
        write_report(home, "one")  # s3fs tries again
        s3.busy = lambda _method, _path: True
        for step in (
            lambda: write_report(home, "two"),
            lambda: fetch(home / "reports" / "a.html"),
            lambda: load_snapshot(home, "snap1"),
            lambda: fetch_views(home, [VIEW]),
        ):
            with pytest.raises(TransientError, match="cannot answer now") as refused:
                step()
            assert "s3://lake/mlops/" in refused.value.detail
            assert any(said in refused.value.detail for said in ("reduce your request rate", "Service Unavailable"))
        assert (home / "reports" / "a.html").read_text() == "one"  # what is not there does not count here either
        s3.busy = lambda _method, _path: False
        write_report(home, "two")
    assert client.get_object(Bucket="lake", Key="mlops/reports/a.html")["Body"].read() == b"two"


def test_a_lost_last_put_is_noticed_and_the_next_attempt_heals_it(here, there, s3):
    s3.loses = lambda method, path: method == "PUT" and path.endswith("/manifest.json")
    with here as home:
        make_snapshot(home, rows=50)
        with pytest.raises(TransientError, match="took a file and does not have it") as refused:
            send(home / "snapshots" / "snap1")
        assert "snap1/manifest.json" in refused.value.detail
        assert "nothing is there" in refused.value.detail
    with there as home, pytest.raises(DataError, match="There is no snapshot"):
        load_snapshot(home, "snap1")
    s3.loses = lambda _method, _path: False
    with here as home:
        send(home / "snapshots" / "snap1")
    with there as home:
        assert load_snapshot(home, "snap1").id == "snap1"


def test_a_lost_put_of_a_file_leaves_the_one_of_before(here, there, s3):
    with here as home:
        write_day(home, VIEW, "2024-03-01", rows(0.1))
        s3.loses = lambda method, path: method == "PUT" and path.endswith("/2024-03-01.parquet")
        with pytest.raises(TransientError, match="took a file and does not have it"):
            write_day(home, VIEW, "2024-03-01", rows(0.2))
        assert rate(home, "2024-03-01") == 0.1
    with there as home:
        fetch_views(home, [VIEW])
        assert rate(home, "2024-03-01") == 0.1


def test_a_lost_file_of_a_folder_is_noticed_before_it_counts(here, s3, client):  # noqa: F811
    s3.loses = lambda method, path: method == "PUT" and path.endswith("/test.parquet")
    with here as home:
        make_snapshot(home, rows=50)
        with pytest.raises(TransientError, match=r"does not have it(.|\n)*test.parquet"):
            send(home / "snapshots" / "snap1")
    assert "mlops/snapshots/snap1/manifest.json" not in keys(client)


def test_a_bucket_that_is_not_there(s3, tmp_path):
    shared._shares.clear()
    home = share(tmp_path / "cache", UPath("s3://leak/x", endpoint_url=s3.url))
    for step in (lambda: fetch_views(home, [VIEW]), lambda: fetch(home / "reports" / "a.html")):
        with pytest.raises(DataError, match="no such bucket"):
            step()
    shared._shares.clear()


def workdir(home: Path) -> Workdir:
    return Workdir(home / "trainings" / "t")


def watched(home: Path) -> Watch:
    log = logging.getLogger("task")
    return Watch(
        workdir(home), log, usage=Usage(os.getpid()), deadline=0, spending=Spending(workdir(home)), patience=60,
        give_up=lambda: None, follow=None,
    )  # fmt: skip


def test_a_checkpoint_is_sent_at_once_however_soon_the_next_takes_its_place(
    here,
    client,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr(watch, "_LOOKS", 0.01)
    monkeypatch.setattr(watch, "_QUIET", 1e9)
    with here as home, watched(home):
        Checkpoints(workdir(home).checkpoints, "spec").save(Position(1), {"model0": np.ones(3)}, {})
        deadline = time.monotonic() + 120
        while not keys(client, "mlops/checkpoints/t/0"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_checkpoint_is_in_the_bucket_while_it_trains_and_another_machine_goes_on_from_it(
    here,
    there,
    client,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr(watch, "_LOOKS", 0.05)
    monkeypatch.setattr(watch, "_QUIET", 0.0)

    with here as home, watched(home):
        kept = Checkpoints(workdir(home).checkpoints, "spec")
        for epoch in (1, 2, 3):
            kept.save(Position(epoch), {"model0": np.ones(3)}, {})
        (kept.folder / "own").mkdir()
        (kept.folder / "own" / "state").write_text("of a fit function")
    names = ["00000002-0000000000.npz", "00000003-0000000000.npz", "own/state", "spent.json"]
    assert keys(client, "mlops/checkpoints") == [f"mlops/checkpoints/t/{name}" for name in names]
    with there as home:
        fetch(workdir(home).checkpoints)
        found = Checkpoints(workdir(home).checkpoints, "spec").newest()
        assert found is not None
        assert found.position == Position(3)
        assert (workdir(home).checkpoints / "own" / "state").exists()
        discard(workdir(home).checkpoints)
        assert not keys(client, "mlops/checkpoints")
