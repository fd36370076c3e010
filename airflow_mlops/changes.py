"""Pipelines that are like another one but for some arguments; and what a change of a pipeline changes.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow_mlops.feeds import Feed
    from airflow_mlops.pipeline import ModelPipeline


def changed(pipeline: ModelPipeline, changes: Mapping[str, Any]) -> ModelPipeline:
    """Return a pipeline with some arguments changed, of itself or of its parts. See ``ModelPipeline.derive``."""
    owners = {name: value for name, value in _arguments(pipeline).items() if _is_part(value)}
    own: dict[str, Any] = {}
    of_parts: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        if name in owners and isinstance(value, Mapping):
            _add(of_parts, name, value)
        elif name in _arguments(pipeline):
            own[name] = value
        else:
            _add(of_parts, _owner(name, pipeline, owners), {name: value})
    for name, some in of_parts.items():
        if name in own:
            raise _twice(f"{name!r} is given as a whole, and {next(iter(some))!r} of it")
        own[name] = _replaced(owners[name], some)
    return dataclasses.replace(pipeline, **own)


def check_datasets(before: ModelPipeline, after: ModelPipeline) -> None:
    """Refuse two models that take one dataset from different places: each would seal its data as that of the other.

    :raises ConfigError: then.
    """
    if after.model == before.model:
        return
    places = {feed.dataset: _place(feed) for feed in before.feeds}
    for feed in after.feeds:
        if places.get(feed.dataset, _place(feed)) != _place(feed):
            raise ConfigError(
                f"{before.model!r} and {after.model!r} would seal different data as one dataset, {feed.dataset!r}.",
                detail=f"{places[feed.dataset]} and {_place(feed)}",
                hint=f"Name it, beside where it is: 'dataset': '{feed.dataset}_...'.",
            )
    check_features(before, after)


def check_features(one: ModelPipeline, other: ModelPipeline) -> None:
    """Refuse two models that compute the features of one service from different data: the last to do so would win.

    :raises ConfigError: then.
    """
    (service, read), (same, theirs) = (_computed(pipeline) for pipeline in (one, other))
    if service == same and read != theirs:
        raise ConfigError(
            f"{one.model!r} and {other.model!r} would compute the features of one service, {service[1]!r}, from "
            "different data.",
            detail=f"{', '.join(read)} and {', '.join(theirs)}",
            hint="Give each a feature service of its own, with views of its own: features={'name': "
            f"'{other.model}_v1'}}; in a fleet, '{{member}}' is the member's name.",
        )


def _computed(pipeline: ModelPipeline) -> tuple[tuple[str, str], list[str]]:
    """Return the feature service, and the datasets whose rows its features are computed from."""
    features = pipeline.features
    return (features.conn_id, features.name), [feed.dataset for feed in (pipeline.source, *features.sources)]


def _place(feed: Feed) -> str:
    """Return where the data of a feed comes from."""
    return " ".join(str(said) for name in ("uri", "conn_id", "table", "query") if (said := getattr(feed, name, "")))


def _add(of_parts: dict[str, dict[str, Any]], part: str, some: Mapping[str, Any]) -> None:
    """Add changes of a part to those that are known already."""
    known = of_parts.setdefault(part, {})
    if again := next((name for name in some if name in known), None):
        raise _twice(f"{part}={{{again!r}: ...}} and {again}=...")
    known.update(some)


def _twice(said: str) -> ConfigError:
    return ConfigError("One argument is changed twice.", detail=said, hint="Leave one of them out.")


def _replaced(one: Any, some: Mapping[str, Any]) -> Any:
    """Return a part with some arguments changed, of itself or of parts in it."""
    known = _arguments(one)
    if unknown := next((key for key in some if key not in known), None):
        raise ConfigError(
            f"{type(one).__name__} has no argument {unknown!r}.{did_you_mean(unknown, known)}",
            hint=f"It knows: {', '.join(known)}.",
        )
    nested = {key: value for key, value in some.items() if isinstance(value, Mapping) and _is_part(known[key])}
    return dataclasses.replace(one, **{**some, **{key: _replaced(known[key], nested[key]) for key in nested}})


def _owner(name: str, pipeline: ModelPipeline, owners: Mapping[str, Any]) -> str:
    """Return which part of a pipeline has an argument."""
    found = [owner for owner, value in owners.items() if name in _arguments(value)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"Several parts of the pipeline have an argument {name!r}: {', '.join(found)}.",
            hint=f"Say which: derive({found[0]}={{{name!r}: ...}}).",
        )
    known = [*_arguments(pipeline), *(argument for value in owners.values() for argument in _arguments(value))]
    raise ConfigError(
        f"No part of the pipeline has an argument {name!r}.{did_you_mean(name, known)}",
        hint="Name an argument of ModelPipeline, or of one of its parts.",
    )


# --- differences ----------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """One argument that is another now, such as ``train.window``, and what follows from it."""

    argument: str
    before: Any
    after: Any
    follows: str


_AGAIN = "What serves stays until a challenger passes its gates."
_FOLLOWS = {
    r"model$": "It is another model: its versions and history begin anew, and those of the old name stay.",
    r"(owner|tags|notify|deadlines)\b": "It holds from the next run on. No model changes.",
    r".*\bcontract$": "Partitions are held against it from the next run on. Sealed ones are read again by "
    "`airflow-mlops history ... --again`.",
    r".*\b(checks|suite|view_suites|view_checks|rows|reconcile|lands_within|complete_after)\b": "What arrives is held "
    "against it from the next run on. What is sealed stays.",
    r".*\b(transform|keys|history|known_at|event_time)$": "Features that get other values by it are computed again "
    "before the next training: `airflow-mlops features compute`.",
    r"(source|features\.sources)\b": "The next run takes data from there. What is sealed stays, and counts.",
    r"(\w+\.)?(resources|timeout|stall_timeout)\b": "Tasks run so from the next run on. No model changes.",
    r"train\.(window|validation|test|split|split_column)$": f"The next snapshot has other rows. {_AGAIN}",
    r"(train|label|entity|features)\b": f"The next training is another one. {_AGAIN}",
    r"gates\b": "Challengers are judged so from the next training on. `airflow-mlops rejudge` says what an older "
    "version would get.",
    r"deploy\.server$": "The next version is deployed to that server. What serves on the old one stays there.",
    r"deploy\b": "It holds from the next deployment on.",
    r"retrain\b": "The next trainings start so. What serves stays.",
    r"batch\b": "Predictions are made so from the next partition on. Those that are sealed stay.",
    r"": "It holds from the next run on.",
}
"""Pattern of an argument → what a change of it does; the first that fits counts."""


def differences(before: ModelPipeline, after: ModelPipeline) -> list[Change]:
    """Return each argument that differs between two pipelines, and what follows from it."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        Change(name, old.get(name), new.get(name), follows)
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
        for follows in [next(words for pattern, words in _FOLLOWS.items() if re.match(pattern, name))]
    ]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a part, and of the parts in it, by their names with dots."""
    if _is_part(value):
        for argument, one in _arguments(value).items():
            yield from _flat(one, f"{name}.{argument}" if name else argument)
    elif isinstance(value, Mapping) and all(map(_is_part, value.values())):
        for key, one in value.items():
            yield from _flat(one, f"{name}[{key}]")
    elif isinstance(value, list | tuple) and value and all(map(_is_part, value)):
        for place, one in enumerate(value):
            yield from _flat(one, f"{name}[{getattr(one, 'dataset', place)}]")
    else:
        yield name, str(value) if isinstance(value, Partitioning) else value


def _arguments(value: Any) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}


def _is_part(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Partitioning | type)
