"""How a training failed is told apart: what may pass is tried again, what will not fails at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.training import launch
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.options import Options
from airflow_mlops.exceptions import TrainingError, TransientError
from airflow_mlops.operators.base import failing_clearly
from tests.script_trainings import Scripts

RETRIED, FAILED = TransientError, AirflowFailException
KILL = "os.kill(os.getppid(), signal.{}); time.sleep(60)"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("endings"))


class Ending(NamedTuple):
    """What a script does, what it may take, and how that ends."""

    text: str
    limits: dict[str, float]
    ends: type[Exception]
    says: str


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("killed", Ending(KILL.format("SIGKILL"), {}, RETRIED, "killed by SIGKILL(.|\n)*mostly lack of memory")),
        (
            "preempted",
            Ending("os.killpg(0, signal.SIGTERM); time.sleep(60)", {}, RETRIED, "SIGTERM(.|\n)*the next try goes on"),
        ),
        (
            "out of memory",
            Ending(
                "Path(params['events']).write_text('oom_kill 1')\n" + KILL.format("SIGKILL"),
                {},
                RETRIED,
                "ran out of memory and was killed(.|\n)*lower batch_size or window",
            ),
        ),
        ("error of the user", Ending("raise SystemExit(3)", {}, FAILED, "train.py ended with status 3")),
        ("NaN", Ending("say(1); say(2, float('nan')); finish()", {}, FAILED, "not a finite number after epoch 2")),
        ("explodes", Ending("say(1); say(2, 501.0); finish()", {}, FAILED, "loss explodes: 501 after epoch 2")),
        ("too slow", Ending("time.sleep(60)", {"timeout": 2}, FAILED, "did not end within 2 s")),
        ("too dear", Ending("time.sleep(60)", {"price": 3600, "max_cost": 2}, FAILED, "price limit of 2 and was")),
    ],
)
def test_each_ending_is_tried_again_or_not(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, ending: Ending
):
    monkeypatch.setattr(launch, "_MEMORY_EVENTS", tmp_path / "memory.events")
    spec = scripts.spec(ending.text, {"events": str(tmp_path / "memory.events")})
    with pytest.raises(ending.ends, match=ending.says), failing_clearly():
        train(spec, scripts.workdir(name).path, **{"timeout": 60, **ending.limits})


@pytest.mark.parametrize(
    ("raised", "ends", "says"),
    [
        (MemoryError("cannot allocate 9 GB"), RETRIED, "ran out of memory, of the machine"),
        ("ResourceExhaustedError", RETRIED, "ran out of memory, of the GPU"),
        (ConnectionResetError("peer"), RETRIED, "raised ConnectionResetError"),
        (KeyError("column"), FAILED, "raised KeyError"),
    ],
)
def test_what_the_users_code_raises(monkeypatch: pytest.MonkeyPatch, scripts: Scripts, raised, ends, says):
    import tensorflow as tf

    from airflow_mlops.engine.training import fit

    if isinstance(raised, str):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
        raised = getattr(tf.errors, raised)(None, None, "OOM when allocating tensor")
    spec = scripts.spec("", script=None, fit="code:fit")
    with pytest.raises(ends, match=says), failing_clearly(), fit._users_code(spec, "The fit function"):
        raise raised


PAYS = """
say(first + 1)
if first == 2:
    raise SystemExit(7)
keep(2)
time.sleep(60)
"""


def test_one_past_its_price_is_not_begun_again_and_goes_on_where_it_was_when_more_is_paid(scripts: Scripts, caplog):
    folder = scripts.workdir("price").path
    spec = scripts.spec(PAYS)
    with pytest.raises(TrainingError, match=r"price limit of 4 and(.|\n)*raise max_cost and clear the task"):
        train(spec, folder, timeout=60, price=3600, max_cost=4)
    (folder / "spec.json").unlink()
    with pytest.raises(TrainingError, match="price limit of 4 and was stopped"):
        train(spec, folder, timeout=60, price=3600, max_cost=4)
    assert not (folder / "training.json").stat().st_mtime > (folder / "spec.json").stat().st_mtime, "nothing began"
    with pytest.raises(TrainingError, match="ended with status 7"):
        train(spec, folder, timeout=60, price=3600, max_cost=400)


def test_progress_counts_and_not_attempts(scripts: Scripts, monkeypatch: pytest.MonkeyPatch):
    """Lost five times in one try of a task: as long as it gets further it is begun again, and no longer."""
    process = launch.TrainingProcess(scripts.spec(""), scripts.workdir("further").path)
    reached = [100, 150, 151, 300, 300, 400]
    lost: list[int] = []

    def loses(*_: float) -> None:
        lost.append(reached[len(lost)])
        raise TransientError("The worker is lost.")

    monkeypatch.setattr(process, "_run_child", loses)
    monkeypatch.setattr(process, "_reached", lambda: lost[-1])
    with pytest.raises(TransientError, match="is lost"):
        process.run(timeout=60)
    assert lost == [100], "nothing was kept: the next would begin anew"
    process.workdir.checkpoints.mkdir(parents=True)
    (process.workdir.checkpoints / "kept").touch()
    lost.clear()
    with pytest.raises(TransientError, match="is lost"):
        process.run(timeout=60)
    assert lost == [100, 150, 151, 300, 300]


LOGS = """
folder = Path(told["tensorboard"] or params["nowhere"])
folder.mkdir(parents=True, exist_ok=True)
(folder / f"events.{params['name']}").touch()
if params["name"] == "first":
    raise SystemExit(3)
say(1)
finish()
"""


def test_logs_for_tensorboard_lie_with_the_training_when_its_checkpoints_are_gone(scripts: Scripts, tmp_path: Path):
    workdir = scripts.workdir("logs")
    for name, fails in (("first", True), ("second", False)):
        spec = scripts.spec(LOGS, {"name": name, "nowhere": str(tmp_path / "nowhere")})
        with pytest.raises(TrainingError, match="status 3") if fails else contextlib.nullcontext():
            train(spec, workdir.path, timeout=60, tensorboard=True)
    logs = [path.name for path in (workdir.path / "tensorboard").iterdir()]
    assert logs == ["events.second"], "what began anew has no logs of a try that kept nothing"
    assert not workdir.checkpoints.exists()
    train(scripts.spec(LOGS, {"name": "x", "nowhere": str(tmp_path / "nowhere")}), scripts.workdir("none").path, 60)
    assert (tmp_path / "nowhere" / "events.x").exists(), "nobody has asked"


def test_a_fit_function_finds_the_folder_when_it_was_asked_for(scripts: Scripts, monkeypatch: pytest.MonkeyPatch):
    from airflow_mlops.engine.training.fit import Report

    workdir = scripts.workdir("fit")
    workdir.path.mkdir(parents=True)
    report = Report(scripts.spec("", script=None, fit="code:fit"), workdir)
    assert report.tensorboard is None
    for name, value in Options(tensorboard=True).as_environment().items():
        monkeypatch.setenv(name, value)
    assert report.tensorboard == workdir.tensorboard


def test_an_image_is_part_of_a_training_only_where_it_was_asked_for(scripts: Scripts, monkeypatch: pytest.MonkeyPatch):
    from airflow_mlops.engine.training.fit import _check_environment

    monkeypatch.setenv("MLOPS_IMAGE", "train:1")
    assert "image" not in environment()
    _check_environment(scripts.spec("", environment={"image": "train:1"}))
    with pytest.raises(TrainingError, match=r"image: asked train:2, here train:1"):
        _check_environment(scripts.spec("", environment={"image": "train:2"}))
