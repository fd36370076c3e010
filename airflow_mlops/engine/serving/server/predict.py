"""One prediction, whichever way it came in: checks in the words of the real server, then the session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.protos import tensorflow_pb2 as tf
from airflow_mlops.engine.serving.saved_model import DEFAULT_SIGNATURE, SavedModel
from airflow_mlops.engine.serving.server.errors import ServingError, from_mlops, invalid
from airflow_mlops.exceptions import MlopsError


def predict(
    model: SavedModel,
    signature_name: str,
    inputs: Mapping[str, np.ndarray | tensors.Content],
    output_filter: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Run a signature on tensors that are in its types already.

    :raises ServingError: when the request does not fit the signature, or the model fails on it.
    """
    name = signature_name or DEFAULT_SIGNATURE
    if name not in model.signatures:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    definition = model.signature_defs[name]
    complete = inputs.keys() == model.signatures[name].inputs.keys()
    if not complete:  # the message's own maps are slow to go through
        _check_names(definition, inputs)
    _check_filter(definition, output_filter)
    try:
        if not complete:
            defaults = {alias: tensors.from_proto(proto) for alias, proto in definition.defaults.items()}
            inputs = {**defaults, **inputs}
        return model.call(inputs, name, output_filter or None)
    except MlopsError as error:
        raise from_mlops(error) from error


def _check_names(definition: tf.SignatureDef, inputs: Mapping[str, object]) -> None:
    wanted, sent = set(definition.inputs), set(inputs)
    extra, missing = sent - wanted, wanted - sent
    if len(sent) > len(wanted) or (len(sent) < len(wanted) and not definition.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(wanted)} "
            f"len({_braced(sent)}) != len({_braced(wanted)}). "
            f"Sent extra: {_braced(extra)}. Missing but required: {_braced(missing)}."
        )
    for alias in sorted(missing - set(definition.defaults)):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {definition.inputs[alias].name}) not found in request and "
            f"no default value provided. Inputs expected to be in the request {_braced(sent)}, or default input "
            f"alias set: {_joined(definition.defaults)}"
        )
    if extra:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {_joined(sent & wanted)}, "
            f"request input: {_joined(sent)}"
        )


def _check_filter(definition: tf.SignatureDef, output_filter: Sequence[str]) -> None:
    seen = set()
    for alias in output_filter:
        if alias not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braced(definition.outputs)}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))


def _braced(names: Iterable[str]) -> str:
    return f"{{{_joined(names)}}}"
