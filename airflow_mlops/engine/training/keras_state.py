"""All that a Keras training is at some moment, as arrays. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

_MODEL, _METRICS, _BEST = "model", "metrics", "best"


def build(model: keras.Model, batch: Any) -> None:
    """Let the optimiser and the metrics have their variables, which they otherwise make at the first step.

    :param batch: Inputs, labels and perhaps weights of a few examples.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.test_on_batch(*batch)


def arrays_of(model: keras.Model, stopping: keras.callbacks.EarlyStopping) -> dict[str, np.ndarray]:
    """Return weights, the states of random seeds and optimisers, running metrics, and the best weights so far."""
    parts = {_MODEL: _variables(model), _METRICS: model.metrics_variables}
    arrays = {f"{part}{place}": np.asarray(one.value) for part, ones in parts.items() for place, one in enumerate(ones)}
    return arrays | {f"{_BEST}{place}": one for place, one in enumerate(stopping.best_weights or [])}


def fits(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether arrays are of a model that has such variables."""
    pairs = ((_MODEL, _variables(model)), (_METRICS, model.metrics_variables))
    return all([one.shape for one in _part(part, arrays)] == [tuple(one.shape) for one in ones] for part, ones in pairs)


def set_model(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a model and its optimisers what they had."""
    _assign(_variables(model), _part(_MODEL, arrays))


def set_metrics(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a model's metrics what they had seen of an epoch."""
    _assign(model.metrics_variables, _part(_METRICS, arrays))


def stopping_state(stopping: keras.callbacks.EarlyStopping) -> dict[str, Any]:
    """Return what early stopping has seen, its best weights aside."""
    best = None if stopping.best is None else float(stopping.best)
    return {"wait": stopping.wait, "best": best, "best_epoch": stopping.best_epoch}


def set_stopping(
    stopping: keras.callbacks.EarlyStopping, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Give early stopping what it had seen."""
    stopping.wait, stopping.best, stopping.best_epoch = state["wait"], state["best"], state["best_epoch"]
    stopping.best_weights = _part(_BEST, arrays) or None


def _variables(model: keras.Model) -> list[Any]:
    """Return a model's variables, random seeds among them, and those of all optimisers that it has."""
    others = (one for one in vars(model).values() if isinstance(one, keras.optimizers.Optimizer))
    optimizers = [model.optimizer, *(one for one in others if one is not model.optimizer)]
    return [*model.variables, *(one for optimizer in optimizers for one in optimizer.variables)]


def _part(part: str, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[f"{part}{place}"] for place in range(sum(name.rstrip("0123456789") == part for name in arrays))]


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        # NumPy keeps the bytes of types that it does not know, such as bfloat16.
        variable.assign(value.view(np.asarray(variable.value).dtype) if value.dtype.kind == "V" else value)
