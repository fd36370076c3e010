"""Which version directories a model's configuration asks for, by the rules of ``tensorflow_model_server``."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from airflow_mlops.engine.serving.config import ModelConfig
from airflow_mlops.engine.serving.server.errors import invalid

_log = logging.getLogger(__name__)
_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*")
_INT64 = range(-(2**63), 2**63)


def find_versions(model: ModelConfig) -> dict[int, Path]:
    """Return version → directory of the versions to hold.

    A child of the base path is a version when its whole name is a number: ``00042`` is 42; ``.tmp-7`` and
    ``3.old`` are nothing.

    :raises ServingError: when the base path does not exist. That is not the same as no version in it: what is
        loaded stays.
    """
    base = Path(model.base_path)
    try:
        return _find(model, base)
    except FileNotFoundError:
        raise invalid(f"Could not find base path {model.base_path} for servable {model.name}") from None
    except OSError as error:
        raise invalid(
            f"Could not list base path {model.base_path} for servable {model.name}: {error.strerror}"
        ) from error


def _find(model: ModelConfig, base: Path) -> dict[int, Path]:
    children = _children(base)
    match model.policy:
        case "specific":
            return {number: path for number, path in children.items() if number in set(model.versions)}
        case "latest":
            newest = sorted(children, reverse=True)[: model.num_versions]
            return {number: children[number] for number in newest}
        case "all":
            return children


def _children(base: Path) -> dict[int, Path]:
    children: dict[int, Path] = {}
    for name in sorted(child.name for child in base.iterdir()):
        if not _NUMBER.fullmatch(name) or int(name) not in _INT64:
            continue
        if int(name) in children:
            _log.warning(
                "Duplicate version directories detected. Version %d will be loaded from %s, %s will be ignored.",
                int(name), name, children[int(name)].name,
            )  # fmt: skip
        children[int(name)] = base / name
    return children
