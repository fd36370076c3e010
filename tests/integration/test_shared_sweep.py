"""One sweep of everything, of a home in a bucket: decided and removed there, whatever a machine has of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from airflow_mlops.engine.data import shared, storage
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch, share
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.home_files import drop
from airflow_mlops.engine.sweep import SweepReport, sweep
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.faulty_s3 import FaultyS3, faulty_s3
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.unit.test_sweep import KEPT, LATER, MODEL, MONTH, SERVER, VERSIONS, ledger, lived  # noqa: F401  fixtures


@pytest.fixture
def s3(client, endpoint) -> Iterator[FaultyS3]:  # noqa: F811
    with faulty_s3(endpoint) as server:
        yield server


@pytest.fixture
def cache(s3, client, lived, tmp_path) -> Iterator[Path]:  # noqa: F811
    """A machine that has nothing yet of a home in which seven versions were trained; its models are beside it."""
    for path in sorted(lived.rglob("*")):
        name = path.relative_to(lived)
        if path.is_file() and name.parts[0] not in ("models", "ledger.db"):
            client.upload_file(str(path), "lake", f"mlops/{name.as_posix()}")
    remote = UPath("s3://lake/mlops", endpoint_url=s3.url, config_kwargs={"retries": {"max_attempts": 0}})
    remote.fs.retries = 1
    yield share(tmp_path / "cache", remote)
    shared._shares.clear()


def swept(cache: Path, lived: Path, ledger, *, now=LATER, dry_run: bool = False) -> SweepReport:  # noqa: F811
    store, stores = PartitionStore.under(cache, ledger), {SERVER: lived / "models"}
    return sweep(cache, ledger, store, keep=MONTH, model_stores=stores, now=now, dry_run=dry_run)


def test_what_no_kept_model_needs_goes_from_the_bucket_and_the_rest_says_why_it_stays(cache, client, lived, ledger):  # noqa: F811
    before = set(keys(client, "mlops/"))
    fetch(cache / "snapshots" / "s1")
    said = swept(cache, lived, ledger, dry_run=True)
    assert set(keys(client, "mlops/")) == before
    report = swept(cache, lived, ledger)
    assert report == said
    each = ["snapshots/s{}", "trainings/t{}", "features/view/superseded/2013-01-01.r{}.parquet"]
    going = {one.format(version) for one in [*each, f"registry/{MODEL}/{{}}"] for version in (1, 2)}
    going |= {
        "reports/departures.html",
        "checkpoints/t9",
        "jobs/t9",
        "progress/t9",
        "quarantine/departures/2013-01-01/batch",
    }
    models = {one.path for one in report.going if one.kind == "model"}
    assert models == {lived / "models" / MODEL / version for version in ("1", "2")}
    assert {str(one.path.relative_to(cache)) for one in report.going if one.path not in models} == going
    gone = {key for key in before if any(key.startswith(f"mlops/{one}") for one in going)}
    assert set(keys(client, "mlops/")) == before - gone
    assert all(one.bytes for one in report.going)
    assert not (cache / "snapshots" / "s1").exists(), "what this machine had of it goes too"
    why = {one.path.name: one.needed_by for one in report.staying if one.kind == "snapshot"}
    assert why.keys() == {f"s{version}" for version in KEPT}
    assert why["s5"][0].startswith(f"{MODEL} 5, which serves")
    assert not [one for one in cache.rglob("*.json") if one.is_file()], "nothing is fetched to decide"
    assert swept(cache, lived, ledger).going == ()


def test_what_is_young_stays(cache, client, lived, ledger):  # noqa: F811
    before = keys(client, "mlops/")
    assert swept(cache, lived, ledger, now=LATER - 3 * MONTH).going == ()
    assert keys(client, "mlops/") == before


def test_a_killed_sweep_leaves_nothing_that_counts_and_is_finished_by_the_next(
    cache, client, lived, ledger, monkeypatch  # noqa: F811
):  # fmt: skip
    client.put_object(Bucket="lake", Key="mlops/snapshots/s1/train.parquet", Body=b"x")

    def killed(path, first=None):
        storage.fresh(path).rm((path / first).path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shared.storage, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            swept(cache, lived, ledger)
    assert keys(client, "mlops/snapshots/s1") == ["mlops/snapshots/s1/train.parquet"]
    with pytest.raises(DataError, match="There is no snapshot 's1'"):
        load_snapshot(cache, "s1")
    swept(cache, lived, ledger)
    assert keys(client, "mlops/snapshots/s1") == []


def test_storage_that_does_not_answer_removes_nothing(cache, s3, client, lived, ledger):  # noqa: F811
    """Least of all because nobody could say what a training was trained on."""
    before = keys(client, "mlops/")
    s3.busy = lambda method, path: method == "GET" and "spec.json" in path
    with pytest.raises(TransientError):
        swept(cache, lived, ledger)
    assert keys(client, "mlops/") == before


def test_what_begins_with_the_same_letters_stays(cache, client):  # noqa: F811
    for name in ("registry/m/1/saved_model.pb", "registry/m/12/saved_model.pb", "reports/a", "reports/ab"):
        client.put_object(Bucket="lake", Key=f"mlops/{name}", Body=b"x")
    drop(cache / "registry" / "m" / "1")
    drop(cache / "reports" / "a")
    assert keys(client, "mlops/registry/m") == ["mlops/registry/m/12/saved_model.pb"]
    assert keys(client, "mlops/reports/a") == ["mlops/reports/ab"]


def test_the_ledger_of_another_home_is_refused(cache, client, lived, tmp_path):  # noqa: F811
    from airflow_mlops.engine.ledger import Ledger

    with pytest.raises(ConfigError, match="knows none of the snapshots of this home"):
        swept(cache, lived, Ledger(f"sqlite:///{tmp_path / 'other.db'}"))
    assert len(keys(client, "mlops/snapshots/")) == len(VERSIONS)
