"""A pipeline that is written in YAML instead of Python, and the JSON schema by which an editor helps to write it.

``dags/churn.yaml`` has the arguments of :class:`~airflow_mlops.pipeline.ModelPipeline`, part by part; a DAG file beside
it makes its DAGs::

    globals().update(ModelPipeline.from_yaml(Path(__file__).with_name("churn.yaml")).dags())

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from airflow_mlops.batch import BatchPredict
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feeds import Checks, Feed, Partitions, SQLSource
from airflow_mlops.launchers import LAUNCHERS, Launcher
from airflow_mlops.parts import Deploy, FeatureService, Gate, Label, Reconcile, Rows, Slice, Trainer
from airflow_mlops.pipeline import ModelPipeline
from airflow_mlops.resources import GPU, Resources
from airflow_mlops.retraining import Retrain, Rollup

PARTS: dict[str, tuple[type, ...]] = {
    "source": (Partitions, SQLSource),
    "sources": (Partitions, SQLSource),
    "label": (Label,),
    "features": (FeatureService,),
    "train": (Trainer,),
    "gates": (Gate,),
    "by": (Slice,),
    "deploy": (Deploy,),
    "retrain": (Retrain,),
    "rollup": (Rollup,),
    "reconcile": (Reconcile,),
    "batch": (BatchPredict,),
    "checks": (Checks,),
    "view_checks": (Checks,),
    "rows": (Rows,),
    "resources": (Resources, GPU),
}
"""Argument → what its value may be made of, or the values in it: the same in whatever part it is."""
ONLY_IN_PYTHON = frozenset({"notify"})
"""Arguments whose values cannot be written down."""

_LOADER = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})


def _mapping(loader: Any, node: Any) -> Any:
    """Build a mapping of which no key is there twice: of two, YAML's loader silently takes the last."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_LOADER.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)  # type: ignore[attr-defined]


def read_pipeline(file: Path, name: str = "") -> ModelPipeline:
    """Return the pipeline that a YAML file says.

    :param file: With the arguments of one pipeline; or, below a name each, with those of several.
    :param name: Of several, the one that is meant.
    :raises ConfigError: when it cannot be read, or says no valid pipeline: with the place and the nearest known key.
    """
    said = _read(file)
    if name:
        if not isinstance(said, Mapping) or name not in said:
            raise ConfigError(
                f"{file.name} has no pipeline {name!r}.{did_you_mean(name, map(str, said or ()))}",
                hint="Name one of its topmost keys.",
            )
        said = said[name]
    elif (
        isinstance(said, Mapping) and said and all(isinstance(one, Mapping) and "model" in one for one in said.values())
    ):
        raise ConfigError(
            f"{file.name} has several pipelines, and none is named.",
            detail=", ".join(map(str, said)),
            hint=f"Name one: ModelPipeline.from_yaml(file, {str(next(iter(said)))!r}).",
        )
    made: ModelPipeline = _made((ModelPipeline,), said, file.name)
    return made


def _read(file: Path) -> Any:
    try:
        return yaml.load(file.read_bytes(), Loader=_LOADER)
    except OSError as error:
        raise ConfigError(
            f"The pipeline {file.name} cannot be read.", detail=str(error), hint="Name a YAML file that is there."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file.name} is not YAML.", detail=" ".join(str(error).split()), hint="Correct the line that is named."
        ) from None


def _made(kinds: tuple[type, ...], said: Any, where: str) -> Any:
    """Build a part from what is written, and whatever parts it has in turn."""
    cls = _meant(kinds, said)
    if not isinstance(said, Mapping):
        raise ConfigError(
            f"{where} says {said!r}, and no {cls.__name__}.",
            hint=f"Write its arguments below it, one a line: {', '.join(_arguments(cls))}.",
        )
    known = _arguments(cls)
    if unknown := [str(key) for key in said if key not in known]:
        raise ConfigError(
            f"{where} has an unknown key {unknown[0]!r}.{did_you_mean(unknown[0], known)}",
            detail="it can be said in Python only" if unknown[0] in ONLY_IN_PYTHON else "",
            hint=f"{cls.__name__} knows: {', '.join(known)}.",
        )
    try:
        return cls(**{key: _value(key, value, f"{where}: {key}") for key, value in said.items()})
    except ConfigError as error:
        if error.headline.startswith(where):
            raise
        raise ConfigError(f"{where}: {error.headline}", detail=error.detail, hint=error.hint) from None


def _value(name: str, value: Any, where: str) -> Any:
    """Return the value of an argument, with the parts in it made."""
    if value is None or isinstance(value, str) or (name not in PARTS and name != "launcher"):
        return value
    if isinstance(value, list):
        return [_made(PARTS[name], one, f"{where}[{place}]") for place, one in enumerate(value)]
    if name == "launcher":
        return _launcher(value, where)
    if name == "view_checks" and isinstance(value, Mapping):
        return {view: _made(PARTS[name], one, f"{where}: {view}") for view, one in value.items()}
    return _made(PARTS[name], value, where)


def _launcher(said: Any, where: str) -> Launcher:
    """Return a launcher, of which its word comes first: ``{kubernetes: {memory: 16Gi}}``."""
    word = str(next(iter(said))) if isinstance(said, Mapping) and len(said) == 1 else ""
    if word not in LAUNCHERS:
        raise ConfigError(
            f"{where} names no launcher.{did_you_mean(word, LAUNCHERS)}",
            detail=f"it is {said!r}",
            hint=f"Write one of {', '.join(LAUNCHERS)}, and below it its arguments: {{kubernetes: {{memory: 16Gi}}}}.",
        )
    made: Launcher = _made((LAUNCHERS[word],), said[word] or {}, f"{where}: {word}")
    return made


def _meant(kinds: tuple[type, ...], said: Any) -> type:
    """Return which of several parts is meant: the one that knows the most of what is written."""
    keys = set(said) if isinstance(said, Mapping) else set()
    return max(kinds, key=lambda cls: len(keys.intersection(_arguments(cls))))


def _arguments(cls: type) -> list[str]:
    return [one.name for one in dataclasses.fields(cls) if one.name not in ONLY_IN_PYTHON]


# --- the schema -----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of such a file: names, types, what is required, and what each argument means."""
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema

    class Schema(GenerateJsonSchema):
        def callable_schema(self, schema: Any) -> dict[str, Any]:
            return {}

    kinds: set[Any] = {cls for some in PARTS.values() for cls in some} | {ModelPipeline, *LAUNCHERS.values()}
    made = TypeAdapter(ModelPipeline).json_schema(schema_generator=Schema)
    defined: dict[str, Any] = made.pop("$defs")
    for cls in kinds:
        if cls is not ModelPipeline:
            own = TypeAdapter(cls).json_schema(schema_generator=Schema)
            defined |= own.pop("$defs", {}) | {cls.__name__: own}
    defined["Partitioning"] = {"type": "string", "description": "daily, or hourly@America/New_York"}
    defined[Feed.__name__] = _any_of(PARTS["source"])
    of_launcher = {word: {"$ref": f"#/$defs/{cls.__name__}"} for word, cls in LAUNCHERS.items()}
    one = {"type": "object", "properties": of_launcher, "additionalProperties": False, "minProperties": 1}
    defined[Launcher.__name__] = {"anyOf": [{"enum": list(LAUNCHERS)}, {**one, "maxProperties": 1}]}
    made["properties"]["batch"] = _any_of(PARTS["batch"])
    for cls in kinds:
        _describe(cls, made if cls is ModelPipeline else defined[cls.__name__])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "$defs": defined}


def _any_of(kinds: Iterable[type]) -> dict[str, Any]:
    return {"anyOf": [{"$ref": f"#/$defs/{cls.__name__}"} for cls in kinds]}


def _describe(cls: type, schema: dict[str, Any]) -> None:
    """Put what the docstring says of a part, and of each of its arguments, where an editor shows it."""
    for name in ONLY_IN_PYTHON:
        schema["properties"].pop(name, None)
    schema["additionalProperties"] = False
    schema["description"] = _sentence(inspect.getdoc(cls) or "")
    for base in reversed(cls.__mro__):
        for name, text in re.findall(r":param (\w+): (.*?)(?=\n:|\n\n|\Z)", inspect.getdoc(base) or "", re.DOTALL):
            if name in schema["properties"]:
                schema["properties"][name]["description"] = " ".join(text.split())


def _sentence(doc: str) -> str:
    return " ".join(doc.partition("\n\n")[0].split())
