"""D50: a model reaches the store half-copied, with a flipped byte, or from a publisher that was killed.

The worst of them is silent: TensorFlow's loader takes a folder with ``saved_model.pb`` and no variables, the
server calls it AVAILABLE, and every request fails. The guard is :func:`publish`: copy aside, prove, one rename.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import MlopsError
from tests.serving_fixtures import (
    RefusedError,
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
    settle,
)

pytestmark = pytest.mark.drill


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_saved_model(folder / "champion", 0.4)
    make_saved_model(folder / "candidate", 0.8)
    return folder


@pytest.fixture
def rollout(server, tmp_path, models, request) -> Iterator[Rollout]:
    """A champion in service, as version 1."""
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        publish(models / "champion", rollout.base, 1)
        put_into_service(rollout, 1)
        yield rollout


def answers_like(rollout: Rollout, model: Path) -> bool:
    """Do callers get the answers that this model gave at training time?"""
    golden = Golden.read(model)
    return served(rollout, golden.inputs) == pytest.approx(golden.outputs["probability"], abs=1e-6)


def versions(rollout: Rollout) -> set[str]:
    """Return what the server finds when it looks into the store."""
    return {path.name for path in rollout.base.iterdir() if path.name.isdecimal()}


def half_copied(source: Path, target: Path) -> None:
    target.mkdir()
    shutil.copy(source / "saved_model.pb", target)
    shutil.copytree(source / "assets.extra", target / "assets.extra")


def flipped_byte(source: Path, target: Path) -> None:
    """Flip the sign of a constant: the model loads, and nothing but its answers tells.

    The graph has its constants more than once, in no fixed order; which copy runs is TensorFlow's secret.
    """
    shutil.copytree(source, target)
    graph = target / "saved_model.pb"
    constant = struct.pack("<f", 0.2)
    flipped = constant[:3] + bytes([constant[3] ^ 0x80])
    content = graph.read_bytes()
    assert constant in content
    graph.write_bytes(content.replace(constant, flipped))


FAULTS = pytest.mark.parametrize("fault", [half_copied, flipped_byte])


@FAULTS
def test_fault_guard_on(fault: Callable[[Path, Path], None], rollout, models, tmp_path):
    fault(models / "candidate", tmp_path / "broken")
    with pytest.raises(MlopsError):
        publish(tmp_path / "broken", rollout.base, 2)
    assert versions(rollout) == {"1"}
    assert answers_like(rollout, models / "champion")

    publish(models / "candidate", rollout.base, 2)
    put_into_service(rollout, 2)
    assert answers_like(rollout, models / "candidate")


def test_fault_guard_off_half_copied(rollout, models):
    half_copied(models / "candidate", rollout.base / "2")
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    rollout.promote(2)
    with pytest.raises(RefusedError, match="variable"):
        served(rollout, Golden.read(models / "champion").inputs)


def test_fault_guard_off_flipped_byte(rollout, models):
    flipped_byte(models / "candidate", rollout.base / "2")
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    rollout.promote(2)
    assert not answers_like(rollout, models / "candidate")
    assert not answers_like(rollout, models / "champion")


@FAULTS
def test_the_second_guard_asks_the_server(fault: Callable[[Path, Path], None], rollout, models):
    """Past the store, the golden predictions through the server still stop it, and take it out again."""
    fault(models / "candidate", rollout.base / "2")
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    with pytest.raises(MlopsError, match="not fit to serve"):
        rollout.verify(2)
    assert rollout.deployment().loaded == (1,)
    assert answers_like(rollout, models / "champion")


# --- a publisher killed with SIGKILL ------------------------------------------------------------------------

PUBLISHER = """
import sys
from pathlib import Path
from airflow_mlops.engine.serving.model_store import publish
print("ready", flush=True)
publish(Path(sys.argv[1]), Path(sys.argv[2]), 2)
"""

# What people write first.
COPIER = """
import shutil, sys, time
from pathlib import Path
print("ready", flush=True)
source, target = Path(sys.argv[1]), Path(sys.argv[2], "2")
for path in sorted(source.rglob("*"), key=lambda path: path.name != "saved_model.pb"):
    if path.is_file():
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def heavy(models, tmp_path_factory) -> Path:
    """The candidate with an asset so large that there is time to die while it is copied."""
    folder = Path(shutil.copytree(models / "candidate", tmp_path_factory.mktemp("heavy") / "candidate"))
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "vocabulary").write_bytes(bytes(64 << 20))
    return folder


def kill_while_publishing(program: str, source: Path, base: Path, moment: Callable[[], bool]) -> bool:
    """Start a publisher and kill it at a moment; False when it was done before."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(source), str(base)], stdout=subprocess.PIPE, text=True
    ) as publisher:
        assert publisher.stdout.readline() == "ready\n"
        while publisher.poll() is None and not moment():
            time.sleep(0.001)
        publisher.kill()
        return publisher.wait() == -9


MOMENTS = {
    "staging made": [],
    "large file begun": ["assets/vocabulary"],
    "all copied": ["assets/vocabulary", "saved_model.pb", "variables/variables.data*", str(GOLDEN_FILE)],
}


def leftovers(base: Path) -> set[Path]:
    return set(base.glob(".tmp-*"))


def has_staged(base: Path, old: set[Path], files: list[str]) -> bool:
    """Is there a staging folder, not one of the old ones, with these files in it?"""
    return any(all(any(new.glob(name)) for name in files) for new in leftovers(base) - old)


def test_killed_publisher_guard_on(rollout, models, heavy):
    base, complete = rollout.base, tree_hash(heavy)
    for name, files in MOMENTS.items():
        moment = partial(has_staged, base, leftovers(base), files)
        assert kill_while_publishing(PUBLISHER, heavy, base, moment), f"it outlived the moment {name!r}"
        assert moment(), f"{name}: nothing was left, so nothing was interrupted"
        assert versions(rollout) == {"1"}, name
        assert answers_like(rollout, models / "champion")
    publish(heavy, base, 2)
    assert not leftovers(base)
    assert tree_hash(base / "2") == complete
    put_into_service(rollout, 2)
    assert answers_like(rollout, models / "candidate")


def test_killed_publisher_guard_off(rollout, models):
    source, copy = models / "candidate", rollout.base / "2" / "saved_model.pb"
    size = (source / "saved_model.pb").stat().st_size
    assert kill_while_publishing(COPIER, source, rollout.base, lambda: copy.exists() and copy.stat().st_size == size)
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    rollout.promote(2)
    with pytest.raises(RefusedError, match="variable"):
        served(rollout, Golden.read(models / "champion").inputs)


# --- no fault ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_fault(rollout, tmp_path):
    """A fortnight of daily deployments: none is refused, each answers as trained."""
    for version in range(2, 16):
        source = make_saved_model(tmp_path / str(version), 0.05 * version)
        publish(source, rollout.base, version, serving=version - 1)
        put_into_service(rollout, version)
        assert answers_like(rollout, source)
    assert rollout.deployment().loaded == (14, 15)
