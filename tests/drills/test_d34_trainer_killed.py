"""D34: the trainer is killed in the middle, its machine is preempted, its worker is killed.

It goes on from its checkpoint, one run only, with the same result; a finished job is never run twice. That the weights
are the same to the last bit, with Keras, is held in ``tests/integration/test_durable_training.py``.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from airflow_mlops.engine.training.launch import TrainingProcess, train
from airflow_mlops.exceptions import TransientError
from tests.script_trainings import Scripts

pytestmark = pytest.mark.drill

# Of each epoch it writes down that it was made; of the third it is told how to go.
SCRIPT = """
for epoch in range(first + 1, told["epochs"] + 1):
    with open(params["made"], "a") as made:
        made.write(f"{epoch} ")
    if epoch == 3 and Path(params["how"]).exists():
        whom, how = Path(params["how"]).read_text().split()
        Path(params["how"]).unlink()
        time.sleep(2.6)  # until what was reported is seen
        trainer = os.getppid()
        worker = int(Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"trainer": trainer, "worker": worker, "all": 0}[whom], signal.Signals[how])
        time.sleep(60)
    say(epoch, 1 / epoch)
    keep(epoch)
finish()
"""
WORKER = """
import sys
from pathlib import Path
from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.training.launch import train

train(TrainingSpec.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), 60)
"""


class Fault:
    """A training that is ended in a way at its third epoch."""

    def __init__(self, scripts: Scripts, name: str, how: str = "") -> None:
        self.folder = scripts.workdir(name).path
        self.how, self.made = scripts.folder / f"{name}.how", scripts.folder / f"{name}.made"
        if how:
            self.how.write_text(how)
        self.spec = scripts.spec(SCRIPT, {"how": str(self.how), "made": str(self.made)})

    @property
    def epochs(self) -> list[str]:
        return self.made.read_text().split()


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("d34"))


def check(fault: Fault) -> None:
    """It made what was missing, has the history of one that nobody disturbed, and does not run twice."""
    result = train(fault.spec, fault.folder, timeout=60)
    assert fault.epochs == ["1", "2", "3", "3", "4"], "only the epoch in which it was ended is made again"
    assert result.history == {"loss": [1.0, 1 / 2, 1 / 3, 1 / 4]}
    assert train(fault.spec, fault.folder, timeout=60) == result
    assert len(fault.epochs) == 5


def test_fault_guard_on_the_trainer_is_killed(scripts: Scripts, caplog):
    fault = Fault(scripts, "killed", "trainer SIGKILL")
    check(fault)  # in the same try of the task
    assert "killed by SIGKILL. It got further than before" in caplog.text


def test_fault_guard_on_the_machine_is_preempted(scripts: Scripts):
    fault = Fault(scripts, "preempted", "all SIGTERM")
    process = TrainingProcess(fault.spec, fault.folder)
    process._stopped = True  # the task is told too, and does not begin again on a machine that goes
    with pytest.raises(TransientError, match="killed by SIGTERM"):
        process.run(timeout=60)
    check(fault)


@pytest.mark.slow
def test_fault_guard_on_the_worker_is_killed(scripts: Scripts, tmp_path: Path):
    fault = Fault(scripts, "worker", "worker SIGKILL")
    (tmp_path / "spec.json").write_text(fault.spec.to_json())
    command = [sys.executable, "-c", WORKER, str(tmp_path / "spec.json"), str(fault.folder)]
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == -signal.SIGKILL
    mine = str(fault.folder)
    left = [one for one in psutil.process_iter(["cmdline"]) if mine in (one.info["cmdline"] or [])]
    assert not psutil.wait_procs(left, timeout=20)[1], "the training ends with its worker"
    check(fault)


@pytest.mark.slow
def test_fault_guard_off(scripts: Scripts, monkeypatch: pytest.MonkeyPatch):
    """Where nothing is kept, all that was done is lost."""
    fault = Fault(scripts, "off", "trainer SIGKILL")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProcess, "_reached", lambda _: 0)  # nor begun again in this try
        with pytest.raises(TransientError, match="killed by SIGKILL"):
            train(fault.spec, fault.folder, timeout=60)
    shutil.rmtree(TrainingProcess(fault.spec, fault.folder).workdir.checkpoints)
    train(fault.spec, fault.folder, timeout=60)
    assert fault.epochs == ["1", "2", "3", "1", "2", "3", "4"]


def test_no_fault(scripts: Scripts):
    fault = Fault(scripts, "none")
    assert train(fault.spec, fault.folder, timeout=60).history["loss"] == [1.0, 1 / 2, 1 / 3, 1 / 4]
    assert fault.epochs == ["1", "2", "3", "4"]
