"""The command line as a user meets it: exit status, standard output, and errors in words."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from airflow_mlops.cli import main


def test_errors_are_headline_detail_hint_on_stderr(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["demo", "land", "--home", str(home), "--day", "2014-01-01"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    headline, where, fix = said.err.strip().splitlines()
    assert "2014-01-01" in headline
    assert where.startswith("  where: ")
    assert fix.startswith("  fix:   ")


def test_land_lands_both_feeds_of_every_day(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert main(["demo", "land", "--home", str(home), "--from", "2013-01-30", "--to", "2013-02-01"]) == 0
    for day in ("2013-01-30", "2013-01-31", "2013-02-01"):
        for feed in ("departures", "arrivals"):
            folder = home / "lake" / feed / day
            assert (folder / "_SUCCESS").exists()
            assert pq.read_table(folder).num_rows > 500
    assert len(capsys.readouterr().out.splitlines()) == 6


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
    assert main(["demo", "status", "--home", str(home)]) == 0
    assert capsys.readouterr().out.count("does not run") == 7
    assert main(["demo", "down", "--home", str(home)]) == 0
    assert "nothing ran" in capsys.readouterr().out


def test_up_reports_a_taken_port_before_anything_starts(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["demo", "up", "--home", str(home), "--mlflow-port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"port {port}, for the MLflow tracking server, is in use by another program" in said
    assert "make demo MLFLOW_PORT=" in said
    assert not (home / "postgres").exists()


def test_run_away_from_the_repository_says_so(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert main(["demo", "run"]) == 1
    assert "clone of the repository" in capsys.readouterr().err


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
