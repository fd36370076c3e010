"""D37: the same spec and seed twice: on a CPU the weights are the same to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.training.weights import same_weights
from tests.training_fixtures import make_snapshot, make_spec
from tests.warm_trainer import train

pytestmark = pytest.mark.drill


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    return make_spec(make_snapshot(tmp_path_factory.mktemp("d37"), rows=300), epochs=2, batch_size=64)


@pytest.fixture(scope="module")
def first(spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(train(spec, tmp_path_factory.mktemp("first") / "t").saved_model)


def test_no_fault(spec: TrainingSpec, first: Path, tmp_path: Path):
    assert same_weights(first, Path(train(spec, tmp_path / "t").saved_model))


@pytest.mark.slow
def test_fault_guard_off(spec: TrainingSpec, first: Path, tmp_path: Path):
    """With another seed it is another model: what is the same above is not so by chance."""
    other = train(spec.model_copy(update={"seed": 8}), tmp_path / "t")
    assert not same_weights(first, Path(other.saved_model))
