"""Tags of versions and of registered models, and taking an alias away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from airflow_mlops.engine.registry.connection import talking_to
from airflow_mlops.engine.registry.lookup import find_version, require_model
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.exceptions import ConfigError

OURS = "mlops."
"""What the names of this package's own tags begin with: they say where a version comes from and how it was judged."""


def set_tags(registry: Registry, model: str, wanted: str | None, tags: Mapping[str, str]) -> int | None:
    """Set tags, over what they were, and return the version's number.

    :param wanted: Number or alias of the version; None for the registered model itself.
    :raises ConfigError: when a tag is one of this package.
    :raises DataError: when there is no such model, alias or version; or MLflow does not take a name or a value.
    """
    _check_not_ours(tags)
    number = _number(registry, model, wanted)
    with talking_to(registry.tracking_uri):
        for tag, value in tags.items():
            if number is None:
                registry.client.set_registered_model_tag(model, tag, value)
            else:
                registry.client.set_model_version_tag(model, number, tag, value)
    return None if number is None else int(number)


def delete_tags(registry: Registry, model: str, wanted: str | None, tags: Iterable[str]) -> int | None:
    """Delete tags and return the version's number. A tag that is not there is deleted already.

    :param wanted: Number or alias of the version; None for the registered model itself.
    :raises ConfigError: when a tag is one of this package.
    :raises DataError: when there is no such model, alias or version.
    """
    tags = list(tags)
    _check_not_ours(tags)
    number = _number(registry, model, wanted)
    with talking_to(registry.tracking_uri):
        for tag in tags:
            if number is None:
                registry.client.delete_registered_model_tag(model, tag)
            else:
                registry.client.delete_model_version_tag(model, number, tag)
    return None if number is None else int(number)


def delete_alias(registry: Registry, model: str, alias: str) -> int | None:
    """Delete an alias and return the version that it pointed to; None when there was no such alias.

    :raises DataError: when there is no such model.
    """
    number = require_model(registry, model).aliases.get(alias)
    if number is None:
        return None
    with talking_to(registry.tracking_uri):
        registry.client.delete_registered_model_alias(model, alias)
    return int(number)


def _number(registry: Registry, model: str, wanted: str | None) -> str | None:
    if wanted is None:
        require_model(registry, model)
        return None
    return str(find_version(registry, model, wanted).version)


def _check_not_ours(tags: Iterable[str]) -> None:
    ours = sorted(tag for tag in tags if tag.startswith(OURS))
    if ours:
        raise ConfigError(
            f"Tags that begin with {OURS!r} are this package's own.",
            detail=f"tags: {', '.join(ours)}",
            hint="Name yours otherwise.",
        )
