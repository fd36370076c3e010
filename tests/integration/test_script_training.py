"""A training script as somebody brings it: it trains and is served like any other, and what goes wrong is said."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import psutil
import pytest

from airflow_mlops import Trainer
from airflow_mlops.contracts import Snapshot, TrainingResult, TrainingSpec
from airflow_mlops.engine import process
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.source import script_hash
from airflow_mlops.exceptions import ConfigError, TrainingError
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from tests.saved_models import make_saved_model
from tests.training_fixtures import make_snapshot

TOLD = 'import json, os\ntold = json.load(open(os.environ["MLOPS_TRAINING"]))\n'
SCRIPT = (
    TOLD
    + """
import sys
import pandas as pd
import tensorflow as tf

numbers = [name for name, kind in told["inputs"].items() if kind == "double"]
train = pd.read_parquet(told["train"])
mean, std = train[numbers].mean().astype("float32"), train[numbers].std().astype("float32")
x = tf.constant(((train[numbers] - mean) / std).fillna(0).to_numpy("float32"))
y = tf.constant(train[told["label"]].to_numpy("float32"))


class Model(tf.Module):
    def __init__(self):
        self.weights = tf.Variable(tf.zeros([len(numbers)]))

    @tf.function(input_signature=[{name: tf.TensorSpec([None], tf.float32, name) for name in numbers}])
    def serve(self, inputs):
        columns = tf.stack([(inputs[name] - mean[name]) / std[name] for name in numbers], axis=1)
        known = tf.where(tf.math.is_nan(columns), 0.0, columns)
        return {"probability": tf.sigmoid(tf.linalg.matvec(known, self.weights))}


tf.random.set_seed(told["seed"])
model = Model()
with open(told["progress"], "a") as progress:
    for epoch in range(told["epochs"]):
        with tf.GradientTape() as tape:
            logits = tf.linalg.matvec(x, model.weights)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits))
        [gradient] = tape.gradient(loss, [model.weights])
        model.weights.assign_sub(float(sys.argv[1]) * gradient)
        print(json.dumps({"epoch": epoch, "loss": float(loss)}), file=progress)
tf.saved_model.save(model, told["saved_model"], signatures={"serving_default": model.serve})
"""
)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Snapshot:
    return make_snapshot(tmp_path_factory.mktemp("home"))


def run(folder: Path, snapshot: Snapshot, text: str, timeout: float = 120, **changes: object) -> TrainingResult:
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "train.py").write_text(text)
    spec = TrainingSpec(
        **{
            "model": "m", "script": "train.py", "args": ("0.5",), "code_path": str(folder / "code"), "seed": 1,
            "epochs": 30, "batch_size": 1, "snapshot": snapshot, **changes,
        }
    )  # fmt: skip
    return train(spec, folder / "training", timeout=timeout)


def test_it_trains_is_judged_and_repeats_its_golden_answers(tmp_path, snapshot):
    result = run(tmp_path, snapshot, SCRIPT)
    assert len(result.history["loss"]) == 30
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert result.examples == 30 * snapshot.splits["train"].rows
    folder = Path(result.saved_model)
    model = SavedModel(folder)
    assert Golden.read(folder).check(model.run, model.signature, 1e-5).rows == 32
    model.close()
    verdict = judge("m", [{"metric": "auc", "vs": "baseline", "min_gain": 0.02}], evaluate(snapshot, folder))
    assert verdict.status == "PASS", verdict
    assert not list((tmp_path / "training").glob(".tmp-*"))
    started = time.monotonic()
    assert run(tmp_path, snapshot, SCRIPT) == result
    assert time.monotonic() - started < 2, "the same spec is not trained twice"


KILLED_ONCE = (
    TOLD
    + """
import os, pathlib, signal, time
kept = pathlib.Path(told["checkpoints"], "weights")
if not kept.exists():
    kept.write_text("of the first try")
    with open(told["progress"], "a") as progress:
        progress.write('{"epoch": 0, "loss": 1.0}\\n{"epoch": 1, "loss": 0.9}\\n')
    time.sleep(4)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
print("it found", kept.read_text())
"""
)


def test_a_script_that_is_killed_finds_what_it_had_saved(tmp_path, snapshot, caplog):
    caplog.set_level(logging.INFO)
    result = run(tmp_path, snapshot, KILLED_ONCE + SCRIPT, timeout=300)
    assert "killed by SIGKILL. It got further than before" in caplog.text
    assert "it found of the first try" in caplog.text
    assert len(result.history["loss"]) == 30, "what it did again counts once"
    assert result.ended > result.started


NOTHING = "print('done')\n"
HALF = TOLD + "made = told['saved_model']\nos.mkdir(made)\nopen(made + '/saved_model.pb', 'wb').write(b'x')\n"
BAD_LINE = TOLD + "open(told['progress'], 'a').write('epoch 1\\n')\n"
NAN = TOLD + "open(told['progress'], 'a').write('{\"loss\": NaN}\\n')\n"


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (NOTHING, {}, r"train.py ended well and wrote no SavedModel(.|\n)*MLOPS_TRAINING"),
        ("import sys\nsys.exit(3)\n", {}, "train.py ended with status 3"),
        ("1 / 0\n", {}, "train.py ended with status 1"),
        (HALF, {}, r"SavedModel of script 'train.py' cannot be used"),
        (BAD_LINE, {}, r"Line 1 of the script's progress cannot be read(.|\n)*'epoch 1'"),
        (NAN, {}, "loss is not a finite number"),
        (NOTHING, {"script": "tarin.py"}, r"no script 'tarin.py'. Did you mean 'train.py'"),
        (NOTHING, {"python": "/nowhere/python"}, r"train.py cannot be run(.|\n)*/nowhere/python: No such file"),
    ],
    ids=["nothing", "status", "raises", "half a model", "progress", "nan", "no script", "no python"],
)
def test_what_goes_wrong_is_said(tmp_path, snapshot, text, changes, words):
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, snapshot, text, **changes)
    assert not (tmp_path / "training" / "result.json").exists()


WRONG = (
    TOLD
    + """
import tensorflow as tf


class Model(tf.Module):
    @tf.function(input_signature=[{"NAME": tf.TensorSpec([None], tf.float32, "NAME")}])
    def serve(self, inputs):
        return {OUTPUTS}


m = Model()
tf.saved_model.save(m, told["saved_model"], signatures={"serving_default": m.serve})
"""
)


@pytest.mark.parametrize(
    ("name", "outputs", "words"),
    [
        (
            "dep_dely",
            '"probability": inputs["dep_dely"]',
            "takes an input 'dep_dely' that is none of the snapshot's features",
        ),
        ("N", '"probability": inputs["N"] * 0 + 7', r"cannot be a binary prediction: a probability lies from 0 to 1"),
        ("N", '"probability": tf.stack([inputs["N"]] * 2, axis=1)', r"must give 1 number an example: probability"),
        (
            "N",
            '"probabilty": inputs["N"], "other": inputs["N"]',
            "no output 'probability', .*Did you mean 'probabilty'",
        ),
    ],
    ids=["input", "values", "outputs", "width"],
)
def test_a_model_of_another_shape_is_refused(tmp_path, snapshot, name, outputs, words):
    number = next(name for name, kind in snapshot.features.items() if kind == "double")
    text = WRONG.replace("OUTPUTS", outputs).replace("NAME", name)
    text = text.replace('"N"', repr(number))
    with pytest.raises(TrainingError, match=words):
        run(tmp_path, snapshot, text)


def test_complex_numbers_are_refused_in_words(tmp_path, snapshot):
    number = next(name for name, kind in snapshot.features.items() if kind == "double")
    model = make_saved_model(tmp_path / "m", 0.1, {number: "float32"}, answers="complex")
    text = TOLD + f"import shutil\nshutil.copytree({str(model)!r}, told['saved_model'])\n"
    with pytest.raises(TrainingError, match=r"cannot be used: The model answers 'wave' in complex numbers"):
        run(tmp_path, snapshot, text)


def test_what_it_leaves_running_is_ended(tmp_path, snapshot, caplog):
    text = (
        "import subprocess, sys\n"
        "for apart in (False, True):\n"
        "    left = [sys.executable, '-c', 'import time; time.sleep(600)  # left']\n"
        "    subprocess.Popen(left, start_new_session=apart)\n"
    )
    started = time.monotonic()
    with caplog.at_level(logging.INFO), pytest.raises(TrainingError, match="wrote no SavedModel"):
        run(tmp_path, snapshot, text)
    assert time.monotonic() - started < 60
    assert "left a process running" in caplog.text
    left = [one for one in psutil.process_iter(["cmdline"]) if "time.sleep(600)  # left" in str(one.info["cmdline"])]
    assert left == []


def test_one_that_ignores_sigterm_is_stopped_in_time(tmp_path, snapshot):
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
    started = time.monotonic()
    with pytest.raises(TrainingError, match="did not end within 3 s"):
        run(tmp_path, snapshot, text, timeout=3)
    assert time.monotonic() - started < 20


def test_one_that_prints_without_end_does_not_fill_the_log(tmp_path, snapshot, caplog, monkeypatch):
    monkeypatch.setattr(process, "_MOST_SAID", 100_000)
    text = "import sys\nfor n in range(30):\n    sys.stdout.write('x' * 1_000_000)\nprint()\nprint('the end')\n"
    with caplog.at_level(logging.INFO), pytest.raises(TrainingError, match="wrote no SavedModel"):
        run(tmp_path, snapshot, text)
    assert len(caplog.text) < 1_000_000
    assert "no more of it is kept here" in caplog.text


def test_it_gets_none_of_airflows_secrets(tmp_path, snapshot, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "planted")
    text = "import os\nprint('seen:', [name for name in os.environ if 'AIRFLOW' in name])\n"
    with caplog.at_level(logging.INFO), pytest.raises(TrainingError):
        run(tmp_path, snapshot, text)
    assert "seen: []" in caplog.text
    assert os.environ["AIRFLOW_CONN_SECRET"] == "planted"


def test_another_script_beside_it_or_other_arguments_are_another_training(tmp_path, snapshot):
    (tmp_path / "train.py").write_text("1")
    one = script_hash("train.py", str(tmp_path))
    (tmp_path / "helpers.py").write_text("2")
    assert script_hash("train.py", str(tmp_path)) != one
    assert script_hash("nothing.py", str(tmp_path)) is None
    spec = {"model": "m", "snapshot": snapshot, "seed": 1, "epochs": 1, "batch_size": 1}
    hashes = {
        TrainingSpec(**spec, **more).hash
        for more in (
            {"entrypoint": "a:b"}, {"script": "a.py"}, {"script": "a.py", "args": ("1",)},
            {"script": "a.py", "python": "/opt/python"},
        )
    }  # fmt: skip
    assert len(hashes) == 4


def test_a_trainer_has_one_or_the_other():
    assert Trainer(script="train.py", args=["--fast"], window="60d").args == ["--fast"]
    for wrong in ({}, {"entrypoint": "a:b", "script": "train.py"}):
        with pytest.raises(ConfigError, match="an entrypoint, a fit function or a script"):
            Trainer(**wrong, window="60d")
    with pytest.raises(ConfigError, match="no window"):
        Trainer("a:b")
    with pytest.raises(Exception, match="an entrypoint, a fit function or a script"):
        TensorFlowTrainOperator(task_id="t", model="m", snapshot="s").spec({})
