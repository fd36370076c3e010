"""One sweep of everything: what is old goes, what a kept model needs stays, and it says so first."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import Deployment, Snapshot, Split
from airflow_mlops.engine import home_files
from airflow_mlops.engine import sweep as module
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.governance.consumers import KIND
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import make_pin, pointer_name
from airflow_mlops.engine.sweep import SweepReport, sweep
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.retention import SweepHomeOperator
from airflow_mlops.templates.sweep import sweep_dag
from tests.data_fixtures import landed, spoil

MODEL, SERVER = "flight_delay", "tf_serving_default"
MONTH = timedelta(days=30)
# File systems say themselves when something was last changed, so the sweep is what happens later.
LATER = datetime.now(UTC) + timedelta(days=100)
VERSIONS = range(1, 8)
KEPT = {"3": "is pinned", "4": "can be gone back to", "5": "serves", "6": "is loaded", "7": "passed its gates last"}


@pytest.fixture
def ledger(home) -> Ledger:
    return Ledger(f"sqlite:///{home / 'ledger.db'}")


@pytest.fixture
def store(home, ledger) -> PartitionStore:
    return PartitionStore.under(home, ledger)


def write(path: Path, text: str = "x" * 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def snapshot(version: int) -> Snapshot:
    day = datetime(2013, 1, 1, tzinfo=UTC)
    split = Split(file="train.parquet", sha256="0", rows=1, positives=0, start=day, end=day)
    return Snapshot(
        id=f"s{version}",
        uri="",
        model=MODEL,
        partitions={},
        feature_service="service",
        feature_files={"view": {"2013-01-01": f"r{version}"}},
        features={"x": "double"},
        entity="id",
        event_time="at",
        label="late",
        as_of=day,
        label_cut=day,
        unlabelled_rows=0,
        splits={"train": split, "validation": split, "test": split},
    )


@pytest.fixture
def lived(home, ledger) -> Path:
    """A home in which seven versions were trained: 5 serves, 4 was good, 3 is pinned, 6 is loaded, 7 passed last."""
    for version in VERSIONS:
        made = snapshot(version)
        write(home / "snapshots" / made.id / "manifest.json", made.to_json())
        write(home / "trainings" / f"t{version}" / "spec.json", json.dumps({"snapshot": {"id": made.id}}))
        write(home / "features" / "view" / "superseded" / f"2013-01-01.r{version}.parquet")
        write(home / "registry" / MODEL / str(version) / "saved_model.pb")
        write(home / "models" / MODEL / str(version) / "saved_model.pb")
        status = "FAIL" if version == 2 else "PASS"
        ledger.record("verdict", MODEL, {"version": version, "status": status, "snapshot_id": made.id})
    write(home / "reports" / "departures.html")
    write(home / "checkpoints" / "t9" / "00000001-0000000000.npz")
    write(home / "jobs" / "t9" / "spec.json")
    write(home / "progress" / "t9" / "progress.json")
    write(home / "quarantine" / "departures" / "2013-01-01" / "batch" / "part.parquet")
    write(home / "features" / "view" / "2013-01-01.parquet")
    pin = make_pin(3, "ann", "it is quiet", None)
    state = Deployment(server=SERVER, model=MODEL, stable=5, good=(4,), loaded=(5, 6), pin=pin)
    ledger.move(pointer_name(SERVER, MODEL), lambda _: state.model_dump(mode="json"))
    return home


def swept(home: Path, ledger: Ledger, *, now: datetime = LATER, dry_run: bool = False) -> SweepReport:
    store = PartitionStore.under(home, ledger)
    stores = {SERVER: home / "models"}
    return sweep(home, ledger, store, keep=MONTH, model_stores=stores, now=now, dry_run=dry_run)


def names(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.name[0] != "."}


def test_what_no_kept_model_needs_goes_and_the_rest_says_why_it_stays(lived, ledger):
    before = names(lived)
    report = swept(lived, ledger)
    gone = {str(one.path.relative_to(lived)) for one in report.going}
    each = ["snapshots/s{}", "trainings/t{}", "features/view/superseded/2013-01-01.r{}.parquet"]
    each += [f"registry/{MODEL}/{{}}", f"models/{MODEL}/{{}}"]
    others = {"reports/departures.html", "checkpoints/t9", "jobs/t9", "progress/t9"}
    others |= {"quarantine/departures/2013-01-01/batch"}
    assert gone == {one.format(version) for one in each for version in (1, 2)} | others
    assert not [name for name in names(lived) if any(name.startswith(one) for one in gone)]
    kept = {one for one in before if not any(one.startswith(two) for two in gone)}
    assert names(lived) == kept
    why = {one.path.name: one.needed_by for one in report.staying if one.kind == "model"}
    assert why.keys() == KEPT.keys()
    for version, words in KEPT.items():
        assert why[version][0].startswith(f"{MODEL} {version}, which {words}")
    [features] = [one for one in report.staying if one.path.name == "2013-01-01.r5.parquet"]
    assert features.needed_by == ("snapshot s5",)
    facts = {fact.subject: fact.payload for fact in ledger.facts("sweep")}
    assert facts["model"]["removed"] == [f"{MODEL}/1", f"{MODEL}/2"]
    assert report.bytes == sum(payload["bytes"] for payload in facts.values())
    assert swept(lived, ledger).going == ()


def test_it_says_first_what_it_would_do(lived, ledger):
    before = names(lived)
    said = swept(lived, ledger, dry_run=True)
    assert names(lived) == before
    assert ledger.facts("sweep") == []
    assert swept(lived, ledger).going == said.going != ()


def test_what_is_young_or_was_used_again_stays(lived, ledger):
    assert swept(lived, ledger, now=datetime.now(UTC) + timedelta(days=29)).going == ()
    # A training that is started again locks its folder anew; so does a publisher its version.
    late = (LATER - timedelta(days=1)).timestamp()
    write(lived / "trainings" / "t1" / ".lock")
    os.utime(lived / "trainings" / "t1" / ".lock", (late, late))
    os.utime(lived / "models" / MODEL / "2", (late, late))
    os.utime(lived / "snapshots" / "s2", (late, late))
    report = swept(lived, ledger)
    assert (lived / "trainings" / "t1").exists()
    assert (lived / "models" / MODEL / "2").exists()
    assert (lived / "features" / "view" / "superseded" / "2013-01-01.r2.parquet").exists()
    assert "t2" in {one.path.name for one in report.going}


def test_partitions_stay_for_kept_snapshots_only(home, store, ledger, lived):
    folder = landed(home / "lake")

    def seal(n: int):
        spoiled = spoil(folder, lambda frame: frame.iloc[1:]) if n else folder
        made = store.seal(
            "departures", "2013-01-15", spoiled, event_time="sched_dep_utc", batch_hash=None, suite_hash=None
        )
        needs = {"partitions": {"departures": {"2013-01-15": made.revision}}}
        ledger.record("snapshot", MODEL, needs, key=f"s{[1, 5, 0][n]}")
        return made

    replaced_for_1, replaced_for_5, _ = seal(0), seal(1), seal(2)
    report = swept(lived, ledger)
    [departures] = report.datasets
    assert [one.revision for one in departures.removed] == [replaced_for_1.revision]
    assert [one.revision for one in departures.kept] == [replaced_for_5.revision]
    assert departures.kept[0].needed_by == (f"{MODEL}/s5",)
    assert store.keys("departures") == ["2013-01-15"]  # no day goes unless its age is said
    kept = sweep(home, ledger, store, keep=MONTH, keep_data=timedelta(days=400), now=LATER, dry_run=True)
    assert [one.reason for one in kept.datasets[0].removed] == ["old"]


def test_what_was_replaced_a_moment_ago_stays(home, store, ledger):
    folder = landed(home / "lake")
    how = {"event_time": "sched_dep_utc", "batch_hash": None, "suite_hash": None}
    old = store.seal("departures", "2013-01-15", folder, **how)
    store.seal("departures", "2013-01-15", spoil(folder, lambda frame: frame.iloc[1:]), **how)
    [young] = sweep(home, ledger, store, keep=MONTH, now=datetime.now(UTC)).datasets
    assert young.removed == (), "a snapshot may be reading it"
    [later] = sweep(home, ledger, store, keep=MONTH, now=LATER).datasets
    assert [one.revision for one in later.removed] == [old.revision]


def test_the_version_with_the_newest_data_stays_though_its_number_is_not_the_highest(home, ledger, lived):
    for version, day in ((5, 5), (6, 20), (7, 2)):
        cut = datetime(2026, 1, day, tzinfo=UTC)
        read = {"version": version, "snapshot": f"s{version}", "label_cut": cut.isoformat()}
        ledger.record(KIND, MODEL, read, key=str(version))
    swept(home, ledger)
    assert (home / "snapshots" / "s6").exists(), "the next deploy takes it"


def test_feature_files_stay_while_a_kept_snapshot_cannot_say_which_it_read(lived, ledger):
    (lived / "snapshots" / "s5" / "manifest.json").write_text("{")
    report = swept(lived, ledger)
    assert not [one for one in report.going if one.kind == "features"]
    words = {why for one in report.staying if one.kind == "features" for why in one.needed_by}
    assert "perhaps snapshot s5, whose manifest cannot be read" in words


def test_a_killed_sweep_is_finished_by_the_next(lived, ledger, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(home_files.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            swept(lived, ledger)
    assert not (lived / "snapshots" / "s1").exists()
    [leftover] = (lived / "snapshots").glob(".tmp-*")
    long_ago = datetime.now(UTC).timestamp() - 2 * 24 * 3600
    os.utime(leftover, (long_ago, long_ago))
    swept(lived, ledger)
    assert not leftover.exists()


def test_a_version_that_somebody_asked_for_meanwhile_stays(lived, ledger, monkeypatch):
    say = module._say

    def asked(*args) -> None:
        say(*args)
        state = Deployment(server=SERVER, model=MODEL, stable=1)
        ledger.move(pointer_name(SERVER, MODEL), lambda _: state.model_dump(mode="json"))

    monkeypatch.setattr(module, "_say", asked)
    swept(lived, ledger)
    assert (lived / "models" / MODEL / "1").exists()


def test_less_than_a_day_is_refused(home, store, ledger):
    with pytest.raises(ConfigError, match="younger than a day"):
        sweep(home, ledger, store, keep=timedelta(hours=23), now=LATER)


def test_the_ledger_of_another_home_is_refused(lived, tmp_path):
    other = Ledger(f"sqlite:///{tmp_path}/other.db")
    before = names(lived)
    with pytest.raises(ConfigError, match="knows none of the snapshots of this home"):
        swept(lived, other)
    assert names(lived) == before


def test_the_command_says_then_removes(lived, ledger, monkeypatch, capsys):
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", _connection(lived))
    monkeypatch.setattr(home_files, "_touched", lambda _: datetime(2013, 1, 1, tzinfo=UTC))
    command = ["sweep", "--keep", "30d", "--home", str(lived), "--ledger", ledger.url]
    before = names(lived)
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("would remove  model") and line.endswith(f"/{MODEL}/1")]
    assert lines[-1].endswith("Nothing is removed without --yes")
    assert names(lived) == before
    assert main([*command, "--yes"]) == 0
    assert not (lived / "models" / MODEL / "1").exists()
    assert (lived / "models" / MODEL / "5").exists()
    monkeypatch.delenv("AIRFLOW_CONN_TF_SERVING_DEFAULT")
    assert main(command) == 0
    assert f"not looked at: the model store of {SERVER}" in capsys.readouterr().out


def test_the_dag_removes_what_its_form_says(lived, ledger, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", _connection(lived))
    monkeypatch.setenv(
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps({"conn_type": "mlops_ledger", "host": ledger.url})
    )
    monkeypatch.setattr(home_files, "_touched", lambda _: datetime(2013, 1, 1, tzinfo=UTC))
    dag = sweep_dag("90d")
    assert dag.params.dump() == {"keep": "90d", "keep_data": None, "only_say": False}
    task = dag.get_task("sweep")
    assert isinstance(task, SweepHomeOperator)
    for only_say in ("True", "False"):
        operator = SweepHomeOperator(task_id="sweep", home=str(lived), keep="90d", keep_data="", only_say=only_say)
        pushed = operator.perform({})
        assert (pushed["only_said"], pushed["removed"] > 0) == (only_say == "True", True)
        assert (lived / "snapshots" / "s1").exists() == (only_say == "True")


def _connection(home: Path) -> str:
    return json.dumps({"conn_type": "tf_serving", "extra": {"model_base_path": str(home / "models")}})
