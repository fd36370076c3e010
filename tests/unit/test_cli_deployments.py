"""What people on call do from a shell to what serves, as far as no model server has to answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployment, pin, pointer_name
from airflow_mlops.exceptions import ConfigError

SERVER, MODEL = "tf_serving_default", "flight_delay"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger in which version 2 serves and version 1 can be gone back to."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    put(ledger, Deployment(server=SERVER, model=MODEL, stable=2, good=(1,), loaded=(1, 2)))
    return ledger


def put(ledger: Ledger, state: Deployment) -> None:
    ledger.move(pointer_name(SERVER, MODEL), lambda _: state.model_dump(mode="json"))


def run(ledger: Ledger, *command: str) -> int:
    home = ledger.url.removeprefix("sqlite:///").removesuffix("/ledger.db")
    return main([*command, "--ledger", ledger.url, "--home", home])


@pytest.mark.parametrize(
    "command",
    [
        ["deployments"],
        ["rollback", "--reason", "x"],
        ["unpin", "--reason", "x"],
        ["withdraw", "--reason", "x"],
        ["ask"],
    ],
)
@pytest.mark.parametrize(
    ("place", "meant"),
    [
        (["flight_dealy"], "Did you mean 'flight_delay'?"),
        ([MODEL, "--server", "tf_serving_defualt"], "Did you mean 'tf_serving_default'?"),
    ],
)
def test_names_that_are_mistyped(ledger, capsys, command, place, meant):
    assert run(ledger, *command, *place) == 1
    assert meant in capsys.readouterr().err
    assert list(ledger.pointers("")) == [pointer_name(SERVER, MODEL)]


def test_a_pin_is_shown_until_it_is_lifted_and_when_it_has_run_out(ledger, capsys):
    assert run(ledger, "pin", MODEL, "--reason", "the fair", "--until", "2099-01-01") == 0
    assert run(ledger, "deployments", MODEL) == 0
    assert "until 2099-01-01 00:00 UTC: the fair" in capsys.readouterr().out
    state, _ = deployment(ledger, SERVER, MODEL)
    over = state.pin.model_copy(update={"until": datetime.now(UTC) - timedelta(hours=1)})
    put(ledger, state.model_copy(update={"pin": over}))
    assert run(ledger, "deployments", MODEL) == 0
    assert ": the fair (it has run out)\n" in capsys.readouterr().out
    assert run(ledger, "unpin", MODEL, "--reason", "tidy") == 0
    assert "Version 2 of flight_delay serves, and the next one" in capsys.readouterr().out
    assert run(ledger, "unpin", MODEL, "--reason", "tidy") == 1
    assert "No version of 'flight_delay' is pinned" in capsys.readouterr().err
    put(ledger, Deployment(server=SERVER, model=MODEL))
    assert run(ledger, "unpin", MODEL, "--reason", "tidy") == 1
    assert "where: none serves" in capsys.readouterr().err


@pytest.mark.parametrize("until", ["soon", "2099-01-01T00:00:00", "2001-01-01"])
def test_an_end_that_is_none(ledger, capsys, until):
    assert run(ledger, "pin", MODEL, "--reason", "x", "--until", until) == 1
    said = capsys.readouterr().err
    assert "neither a day nor a moment" in said or "would have run out already" in said
    with pytest.raises(ConfigError, match="The end of the pin has no time zone"):
        pin(ledger, SERVER, MODEL, "ann", "x", datetime(2099, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, "cannot be read"),
        ("[{", "cannot be read"),
        ("{}", "holds no list of gates"),
        ('["auc"]', "holds no list of gates"),
    ],
)
def test_a_file_of_gates_that_is_none(ledger, capsys, tmp_path, written, words):
    file = tmp_path / "gates.json"
    if written is not None:
        file.write_text(written)
    assert run(ledger, "rejudge", MODEL, "2", "--gates", str(file)) == 1
    assert words in capsys.readouterr().err


def test_gates_that_nobody_asked_for_are_not_passed_over(ledger, capsys, tmp_path):
    file = tmp_path / "gates.json"
    file.write_text('[{"metric": "auc", "min": 0.99}]')
    gates = [{"metric": "auc", "min": 0.5}]
    verdict = {"version": 1, "status": "PASS", "snapshot_id": "s", "checks": [], "inputs_hash": "h", "gates": gates}
    ledger.record("verdict", MODEL, verdict)
    assert run(ledger, "rejudge", MODEL, "1", "--gates", str(file)) == 1
    assert "are in the ledger: it is judged by these" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["9999-12-31", "9999-12-31T23:59:59-12:00", "0001-01-01"])
def test_a_moment_that_nobody_can_count_from(ledger, capsys, moment):
    for command in (
        ["rollback", MODEL, "--reason", "x", "--served-on", moment],
        ["pin", MODEL, "--reason", "x", "--until", moment],
    ):
        assert run(ledger, *command) == 1
        assert "  fix:   " in capsys.readouterr().err


def test_judging_again_what_was_never_judged(ledger, capsys):
    verdict = {"version": 1, "status": "PASS", "snapshot_id": "s", "checks": [], "inputs_hash": "h", "gates": []}
    ledger.record("verdict", MODEL, verdict)
    assert run(ledger, "rejudge", "flight_dealy", "1") == 1
    assert "Did you mean 'flight_delay'?" in capsys.readouterr().err
    assert run(ledger, "rejudge", MODEL, "7") == 1
    assert "judged: 1" in capsys.readouterr().err
