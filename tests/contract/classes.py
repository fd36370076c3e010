"""Every class of the Airflow floor, found by walking its packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from airflow.triggers.base import BaseEventTrigger

import airflow_mlops
from airflow_mlops.hooks.base import MlopsHook
from airflow_mlops.operators.base import MlopsOperator
from airflow_mlops.sensors.base import MlopsSensor
from airflow_mlops.triggers.base import PollTrigger

FLOOR = ("assets", "decorators", "hooks", "launchers", "links", "operators", "sensors", "templates", "triggers")


def modules(package: str) -> Iterator[str]:
    """Yield the dotted names of a package's modules."""
    root = importlib.import_module(f"airflow_mlops.{package}")
    yield root.__name__
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
        yield found.name


def public_modules() -> list[str]:
    """Return all modules a DAG file may import: the top level and the Airflow floor."""
    top = [f"airflow_mlops.{found.name}" for found in pkgutil.iter_modules(airflow_mlops.__path__) if not found.ispkg]
    return ["airflow_mlops", *top, *(name for package in FLOOR for name in modules(package))]


def concrete(base: type) -> list[type]:
    """Return the classes of the package that a user may name and that derive from ``base``, bases left out."""
    found = {
        member
        for name in public_modules()
        for _, member in inspect.getmembers(importlib.import_module(name), inspect.isclass)
        if issubclass(member, base) and member.__module__.startswith("airflow_mlops.") and member.__name__[0] != "_"
    }
    return sorted(
        (cls for cls in found if not inspect.isabstract(cls) and cls is not base), key=lambda cls: cls.__name__
    )


OPERATORS = concrete(MlopsOperator)
SENSORS = concrete(MlopsSensor)
TRIGGERS = concrete(PollTrigger)
EVENT_TRIGGERS = concrete(BaseEventTrigger)
HOOKS = concrete(MlopsHook)


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the constructor parameters that a class and its bases in this package declare."""
    return {
        name: parameter
        for base in reversed(cls.__mro__)
        if base.__module__.startswith("airflow_mlops.") and "__init__" in vars(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def example_arguments(cls: type) -> dict[str, object]:
    """Return a made-up argument for every parameter of a constructor that needs one."""
    examples = {"int": 3, "float": 2.5, "list[str]": ["a"], "Sequence[str]": ["a"], "bool": True}
    return {
        name: examples.get(str(parameter.annotation).split(" |")[0], "x")
        for name, parameter in parameters(cls).items()
        if parameter.default is inspect.Parameter.empty
    }
