"""The command line as a user meets it: exit status, standard output, and errors in words."""

from __future__ import annotations

import getpass
import json
import signal
import socket
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airflow_mlops.cli import main
from airflow_mlops.engine.data.announcements import announced
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.stack import postgres, processes
from tests.small_days import ledger_of, seal_day, seal_days


def test_errors_are_headline_detail_hint_on_stderr(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["demo", "land", "--home", str(home), "--day", "2014-01-01"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    headline, where, fix = said.err.strip().splitlines()
    assert "2014-01-01" in headline
    assert where.startswith("  where: ")
    assert fix.startswith("  fix:   ")


def test_a_stack_lives_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stack", "up", "--home", "s3://bucket/home"])
    assert "s3://bucket/home is no folder" in capsys.readouterr().err


def test_land_lands_all_feeds_of_every_day(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["demo", "land", "--home", str(home), "--from", "2013-01-30", "--to", "2013-02-01"]) == 0
    for day in ("2013-01-30", "2013-01-31", "2013-02-01"):
        for feed, rows in (("departures", 500), ("arrivals", 500), ("weather", 60)):
            folder = home / "lake" / feed / day
            assert (folder / "_SUCCESS").exists()
            assert pq.read_table(folder).num_rows > rows
    assert len(capsys.readouterr().out.splitlines()) == 9


@pytest.mark.parametrize(
    ("days", "complaint"),
    [
        ([], "Which days?"),
        (["--to", "2013-01-02"], "Which days?"),
        (["--day", "2013-01-02", "--from", "2013-01-01"], "Which days?"),
        (["--from", "2013-01-02", "--to", "2013-01-01"], "end before they start"),
    ],
)
def test_land_refuses_unclear_days(
    capsys: pytest.CaptureFixture[str], home: Path, days: list[str], complaint: str
) -> None:
    assert main(["demo", "land", "--home", str(home), *days]) == 1
    assert complaint in capsys.readouterr().err
    assert not (home / "lake").exists()


def test_status_and_down_where_nothing_ever_ran(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["stack", "status", "--home", str(home)]) == 0
    assert capsys.readouterr().out.count("does not run") == 9
    assert main(["stack", "down", "--home", str(home)]) == 0
    assert "nothing ran" in capsys.readouterr().out


def test_up_reports_a_taken_port_before_anything_starts(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["stack", "up", "--home", str(home), "--dags", str(home), "--mlflow-port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"port {port}, for the MLflow tracking server, is in use by another program" in said
    assert "choose other ports in the environment: MLFLOW_PORT=" in said
    assert not (home / "postgres").exists()


def test_run_away_from_the_repository_says_so(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert main(["demo", "run"]) == 1
    assert "clone of the repository" in capsys.readouterr().err


# --- for people on call -----------------------------------------------------------------------------------


@pytest.fixture
def days(home: Path) -> Path:
    """Three sealed days of departures."""
    seal_days(home, "departures", 3)
    return home


def run(home: Path, *command: str) -> int:
    return main([*command, "--home", str(home), "--ledger", ledger_of(home).url])


def test_what_is_no_day_is_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["backfill", "plan", "dags/churn.py:churn", "--from", "yesterday"])
    assert "argument --from: 'yesterday' is not a day: write it as 2013-01-15" in capsys.readouterr().err


def test_announce_records_the_person(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(days, "announce", "departures", "degraded", "--reason", "half of the gates") == 0
    assert "what trains on it holds" in capsys.readouterr().out
    said = announced(ledger_of(days), "departures")
    assert (said.state, said.reason, said.who) == ("degraded", "half of the gates", getpass.getuser())


def test_exclude_list_and_lift(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = ["--from", "2013-01-02", "--to", "2013-01-03T12:00:00+00:00", "--reason", "clocks were wrong"]
    everything = ("--from", "2000-01-01", "--to", "2100-01-01", "--reason", "all of it")
    assert run(days, "exclude", "departures", *everything) == 1
    assert "Nothing of 'departures' would be left to train on" in capsys.readouterr().err
    mistyped = ("--from", "2012-01-02", "--to", "2012-01-04", "--reason", "clocks were wrong")
    assert run(days, "exclude", "departures", *mistyped) == 0
    said = capsys.readouterr().out
    assert "No sealed partition lies in it: the 3 that there are go from 2013-01-01 to 2013-01-03." in said
    assert run(days, "lift", said.split()[0], "--reason", "of another year") == 0
    capsys.readouterr()
    assert run(days, "exclude", "departures", *window) == 0
    made, then = capsys.readouterr().out.splitlines()
    assert "airflow-mlops backfill plan PIPELINE --from 2013-01-02 --to 2013-01-03" in then
    identity = made.split()[0]
    assert "2013-01-02 00:00 to 2013-01-03 12:00 UTC" in made
    assert run(days, "exclusions", "departures") == 0
    assert capsys.readouterr().out == f"{made}\n"
    assert run(days, "lift", identity, "--reason", "mended") == 0
    assert exclusions(ledger_of(days), "departures") == []


def test_sources_says_how_each_stands(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seal_days(days, "arrivals", 1)
    run(days, "announce", "departures", "degraded", "--reason", "half of the gates")
    run(days, "exclude", "departures", "--from", "2013-01-04", "--to", "2013-01-05", "--reason", "never landed")
    capsys.readouterr()
    assert run(days, "sources") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "arrivals: 1 partitions from 2013-01-01 to 2013-01-01, without a gap up to 2013-01-02"
    assert said[1] == "departures: 3 partitions from 2013-01-01 to 2013-01-03, without a gap up to 2013-01-05"
    assert said[2].startswith("  degraded since ")
    assert said[3].endswith("never landed")


def test_partitions_revisions_and_what_differs(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = "2013-01-02"
    assert run(days, "partitions", "departures") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["2013-01-01", day, "2013-01-03"]
    old = listed[1].split()[1]
    new = seal_day(days, "departures", date(2013, 1, 2), [1.0, 5.0, 6.0])
    capsys.readouterr()
    assert run(days, "partitions", "departures", "--day", day) == 0
    revisions = {line[2:].split()[0]: line[0] for line in capsys.readouterr().out.splitlines()}
    assert revisions == {old: " ", new: "*"}
    assert run(days, "diff", "departures", day, old, new, "--unique", "id") == 0
    said = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    counts = {"rows before": "2", "rows after": "3", "rows added": "1", "rows removed": "0", "rows changed": "1"}
    assert {name.strip(): value for name, value in said.items() if name.startswith("rows")} == counts


def test_sweep_says_what_went_and_what_a_model_still_needs(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partition = PartitionStore.under(days).get("departures", "2013-01-02")
    payload = {"partitions": {"departures": {"2013-01-02": partition.revision}}}
    ledger_of(days).record("snapshot", "flight_delay", payload, key="abc")
    assert run(days, "sweep", "departures", "--keep", "90d") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("would remove  2013-01-01")
    assert said[-1].endswith("Nothing is removed without --yes")
    assert len(PartitionStore.under(days).keys("departures")) == 3
    assert run(days, "sweep", "departures", "--keep", "90d", "--yes") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[:3]] == [
        ["removed", "2013-01-01"],
        ["removed", "2013-01-03"],
        ["kept", "2013-01-02"],
    ]
    assert said[2].endswith("needed by flight_delay/abc")
    assert said[3].startswith("2 revisions removed")
    assert PartitionStore.under(days).keys("departures") == ["2013-01-02"]
    assert run(days, "sweep", "departures", "--keep", "90d", "--force", "--yes") == 0
    assert PartitionStore.under(days).keys("departures") == []


def test_a_suggested_suite_is_not_written_over_what_a_person_edited(
    days: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = days / "departures.json"
    assert run(days, "suggest-suite", "departures", "--out", str(out)) == 0
    suggested = out.read_text()
    assert json.loads(suggested)["expectations"]
    capsys.readouterr()
    assert run(days, "suggest-suite", "departures") == 0
    assert capsys.readouterr().out == suggested
    assert run(days, "suggest-suite", "departures", "--from", "2013-01-02", "--to", "2013-01-03") == 0
    assert "Suggested from 2 profiles" in capsys.readouterr().out
    run(days, "exclude", "departures", "--from", "2013-01-02", "--to", "2013-01-03", "--reason", "clocks were wrong")
    assert run(days, "suggest-suite", "departures", "--from", "2013-01-02") == 0
    assert "Suggested from 1 profiles" in capsys.readouterr().out
    run(days, "lift", exclusions(ledger_of(days), "departures")[0].id, "--reason", "they were right")
    out.write_text("edited")
    assert run(days, "suggest-suite", "departures", "--out", str(out)) == 1
    assert "overwrite it with --force" in capsys.readouterr().err
    assert out.read_text() == "edited"
    assert run(days, "suggest-suite", "departures", "--out", str(out), "--force") == 0
    assert out.read_text() == suggested


def test_a_new_ledger_is_told_from_one_that_cannot_be_reached(home: Path) -> None:
    ledger_of(home).check()
    command = [sys.executable, "-m", "airflow_mlops.cli", "sources", "--home", str(home), "--ledger"]
    new = subprocess.run([*command, ledger_of(home).url], capture_output=True, text=True, timeout=60, check=True)
    assert new.stdout == "The ledger knows no dataset: no partition was sealed yet.\n"
    down = "postgresql+psycopg2://nobody@127.0.0.1:9/nothing"
    gone = subprocess.run([*command, down], capture_output=True, text=True, timeout=60, check=False)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "database does not answer" in gone.stderr


def names(home: Path) -> set[str]:
    """Files below a home but for those that SQLite has beside an open ledger."""
    return {str(path) for path in home.rglob("*") if not path.name.startswith("ledger.db-")}


@pytest.mark.parametrize(
    "command",
    [
        ["sources"],
        ["halts"],
        ["halt", "flight_delay", "--untrained", "--reason", "x"],
        ["deployments", "flight_delay"],
        ["rollback", "flight_delay", "--reason", "x"],
        ["sweep", "--keep", "30d", "--yes"],
        ["sweep", "departures", "--keep", "30d", "--yes"],
        ["announce", "departures", "ok", "--reason", "x"],
    ],
)
def test_a_mistyped_ledger_is_not_made(days: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    before = names(days)
    wrong = days / "legder.db"
    assert main([*command, "--home", str(days), "--ledger", f"sqlite:///{wrong}"]) == 1
    assert f"There is no ledger.\n  where: {wrong}\n  fix:   Correct --ledger" in capsys.readouterr().err
    assert names(days) == before


def test_the_ledger_of_another_home_sweeps_nothing(days: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(days)
    other = Ledger(f"sqlite:///{days.parent}/other.db")
    other.record("partition", "departures", {"revision": "r"}, key="2013-01-01")
    command = ["sweep", "departures", "--keep", "1d", "--yes", "--home", str(days), "--ledger", other.url]
    assert main(command) == 1
    assert "knows none of the 3 partitions of 'departures'" in capsys.readouterr().err
    assert names(days) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["partitions", "departure"], "Did you mean 'departures'?"),
        (["sweep", "departure", "--keep", "90d"], "Did you mean 'departures'?"),
        (["partitions", "departures", "--day", "2013-02-01"], "no partition 2013-02-01"),
        (["diff", "departures", "2013-01-02", "nothing", "nowhere"], "nothing"),
        (["announce", "departure", "ok", "--reason", "x"], "Did you mean 'departures'?"),
        (["announce", "departures", "okay", "--reason", "x"], "Did you mean 'ok'?"),
        (["announce", "departures", "ok", "--reason", ""], "lacks: reason"),
        (["exclude", "departures", "--from", "x", "--to", "2013-01-05", "--reason", "x"], "neither a day nor a moment"),
        (
            ["exclude", "departures", "--from", "2013-01-05T00:00:00", "--to", "2013-01-05", "--reason", "x"],
            "time zone",
        ),
        (["exclude", "departures", "--from", "2013-01-05", "--to", "2013-01-05", "--reason", "x"], "is empty"),
        (["exclusions", "departure"], "Did you mean 'departures'?"),
        (["lift", "nothing", "--reason", "x"], "no exclusion 'nothing'"),
        (["sweep", "departures", "--keep", "some"], "not a duration"),
        (["sweep", "departures", "--keep", "0d"], "a whole number from 1"),
        (["sweep", "departures", "--keep", "999999d"], "too long a duration"),
        (["sweep", "departures", "--keep", "99999999999d"], "too long a duration"),
        (["sweep", "departures", "--keep", "90d", "--keep-data", "90d"], "Say their age by --keep"),
        (["sweep", "--keep", "2h"], "a day, 1d, or longer"),
        (["sweep", "--keep", "90d", "--force"], "never takes what a kept model needs"),
        (["suggest-suite", "departure"], "Did you mean 'departures'?"),
        (["suggest-suite", "departures", "--out", "/dev/null/x.json"], "suite cannot be written"),
        (["suggest-suite", "departures", "--from", "2014-01-01"], "no sealed partitions"),
        (["taints", "flight_delay"], "no model 'flight_delay'"),
    ],
)
def test_what_cannot_work_is_refused(
    days: Path, capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    facts = ledger_of(days).facts("announcement"), ledger_of(days).facts("exclusion")
    assert run(days, *command) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert "  fix:   " in said.err
    assert said.out == ""
    assert (ledger_of(days).facts("announcement"), ledger_of(days).facts("exclusion")) == facts


def test_a_ledger_that_nobody_named_is_explained(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    monkeypatch.delenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", raising=False)
    assert main(["sources", "--home", str(home)]) == 1
    assert "Pass --ledger URL. Or: Add one under Admin" in capsys.readouterr().err


def test_the_ledger_of_the_airflow_connection(
    days: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "mlops_ledger", "host": ledger_of(days).url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "client")
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(days))
    assert main(["sources"]) == 0
    assert capsys.readouterr().out.startswith("departures: 3 partitions")


def test_the_ledger_of_the_laptop_stack_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = postgres.start(tmp_path / "postgres")
    try:
        Ledger(database.url("mlops_ledger")).record("partition", "departures", {"revision": "r"}, key="2013-01-01")
        assert main(["announce", "departures", "ok", "--reason", "well", "--home", str(tmp_path)]) == 0
        assert announced(Ledger(database.url("mlops_ledger")), "departures").reason == "well"
    finally:
        processes.stop([database.process], sig=signal.SIGINT, grace=10)


def test_serve_hands_all_flags_to_the_server() -> None:
    command = [sys.executable, "-m", "airflow_mlops.cli", "serve", "--no_such_flag=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "no_such_flag" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from airflow_mlops.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'airflow', 'pandas', 'numpy', 'pyarrow', 'feast', 'mlflow', 'grpc', 'tensorflow', 'psutil'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip().endswith("loaded: []")
