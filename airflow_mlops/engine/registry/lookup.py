"""Finding models and versions, by number or by alias. What is not there is told with the nearest that is.

Works on versions that anybody made: without a run, and without the tags of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from airflow_mlops.engine.registry.connection import NO_SUCH_THING, talking_to, without_credentials
from airflow_mlops.engine.registry.registry import ERROR, Registry
from airflow_mlops.exceptions import DataError, TrainingError, did_you_mean

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.entities.model_registry import RegisteredModel as MlflowModel

_A_PAGE = 1000
_TOLD = 10


class AliasTarget(TypedDict):
    """The version that an alias points to, and the run that made it; no run of a version that was made without."""

    model: str
    alias: str
    version: int
    run_id: str


class TaggedVersion(TypedDict):
    """A version that has a tag."""

    model: str
    version: int
    tag: str
    value: str


class FinishedRun(TypedDict):
    """A run that ended well."""

    run_id: str
    experiment_id: str
    status: str


class AliasLook(NamedTuple):
    """What one look found: the version, or in words what is there instead."""

    found: AliasTarget | None
    seen: str = ""


class TagLook(NamedTuple):
    """What one look found: the version with its tag, or in words what is there instead."""

    found: TaggedVersion | None
    seen: str = ""


def find_model(registry: Registry, model: str) -> MlflowModel | None:
    """Return a registered model with its aliases, or None when there is none of that name."""
    from mlflow.exceptions import MlflowException

    with talking_to(registry.tracking_uri):
        try:
            return registry.client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code != NO_SUCH_THING:
                raise
            return None


def require_model(registry: Registry, model: str) -> MlflowModel:
    """Return a registered model with its aliases.

    :raises DataError: when there is none of that name.
    """
    found = find_model(registry, model)
    if found is None:
        raise DataError(
            _no_model(registry, model),
            detail=f"tracking URI {without_credentials(registry.tracking_uri)}",
            hint="Correct the name, or the connection of type mlflow.",
        )
    return found


def find_version(registry: Registry, model: str, wanted: str) -> ModelVersion:
    """Return a version.

    :param wanted: Its number, or an alias that points to it. Digits are a number.
    :raises DataError: when there is no such model, alias or version.
    """
    from mlflow.exceptions import MlflowException

    registered = require_model(registry, model)
    number = wanted if wanted.isdecimal() else registered.aliases.get(wanted)
    if number is None:
        raise DataError(
            _no_alias(registered, wanted),
            detail=_aliases(registered),
            hint="Name a version by its number, or by an alias that it has.",
        )
    with talking_to(registry.tracking_uri):
        try:
            return registry.client.get_model_version(model, number)
        except MlflowException as error:
            if error.error_code != NO_SUCH_THING:
                raise
    numbers = [int(version.version) for version in versions_of(registry, model)]
    newest = ", ".join(map(str, numbers[:_TOLD])) + (", …" if len(numbers) > _TOLD else "")
    raise DataError(
        f"Model {model!r} has no version {number}.",
        detail=f"{len(numbers)} versions: {newest}" if numbers else "it has no version at all",
        hint="A version that was deleted does not come back, and its number is not given again.",
    )


def versions_of(registry: Registry, model: str) -> list[ModelVersion]:
    """Return all versions of a model, newest first. MLflow leaves their aliases out of such a list."""
    # A filter of MLflow cannot name what has quotes of both kinds; whatever it finds is looked at again.
    quote = '"' if "'" in model else "'"
    named = f"name = {quote}{model}{quote}" if quote not in model else None
    found: list[ModelVersion] = []
    page = None
    with talking_to(registry.tracking_uri):
        while page is None or page.token:
            page = registry.client.search_model_versions(
                named, max_results=_A_PAGE, page_token=page.token if page else None
            )
            found += [version for version in page if version.name == model]
    return sorted(found, key=lambda version: -int(version.version))


def look_at_alias(registry: Registry, model: str, alias: str, other_than: int | None = None) -> AliasLook:
    """Look once where an alias points. A model that is not registered yet has no alias yet.

    :param other_than: A version that it is not to point to.
    """
    registered = find_model(registry, model)
    if registered is None:
        return AliasLook(None, _no_model(registry, model))
    number = registered.aliases.get(alias)
    if number is None:
        return AliasLook(None, f"{_no_alias(registered, alias)} Its {_aliases(registered)}")
    if int(number) == other_than:
        return AliasLook(None, f"alias {alias!r} of {model!r} points to version {number}")
    version = find_version(registry, model, str(number))
    return AliasLook(AliasTarget(model=model, alias=alias, version=int(number), run_id=version.run_id or ""))


def look_at_tag(registry: Registry, model: str, wanted: str, tag: str, value: str) -> TagLook:
    """Look once whether a version has a tag. An alias may come later; a number must be there.

    :param wanted: Its number, or an alias that points to it.
    :raises DataError: when a number was never registered, or the version was deleted.
    """
    if not wanted.isdecimal() and (look := look_at_alias(registry, model, wanted)).found is None:
        return TagLook(None, look.seen)
    version = find_version(registry, model, wanted)
    has = version.tags.get(tag)
    if has == value:
        return TagLook(TaggedVersion(model=model, version=int(version.version), tag=tag, value=value))
    said = f"no tag {tag!r}.{did_you_mean(tag, version.tags)}" if has is None else f"tag {tag}={has!r}"
    return TagLook(None, f"version {version.version} of {model!r} has {said}")


def look_at_run(registry: Registry, run_id: str) -> FinishedRun | None:
    """Look once whether a run has ended.

    :raises DataError: when there is no such run.
    :raises TrainingError: when it failed or was killed, with what the run says of it.
    """
    from mlflow.exceptions import MlflowException

    uri = without_credentials(registry.tracking_uri)
    with talking_to(registry.tracking_uri):
        try:
            run = registry.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != NO_SUCH_THING:
                raise
            raise DataError(
                f"There is no MLflow run {run_id!r}.",
                detail=f"tracking URI {uri}",
                hint="Give the run's id, which MLflow makes up, not its name; or correct the connection.",
            ) from None
    info = run.info
    if info.status in ("FAILED", "KILLED"):
        why = run.data.tags.get(ERROR)
        raise TrainingError(
            f"MLflow run {info.run_name or run_id!r} {'failed' if info.status == 'FAILED' else 'was killed'}.",
            detail=f"run {run_id} at {uri}: {why or 'it does not say why'}",
            hint="See the run's page in MLflow and its log; start it again, and wait for that run.",
        )
    if info.status != "FINISHED":
        return None
    return FinishedRun(run_id=run_id, experiment_id=info.experiment_id, status=info.status)


def _no_model(registry: Registry, model: str) -> str:
    with talking_to(registry.tracking_uri):
        names = [one.name for one in registry.client.search_registered_models(max_results=_A_PAGE)]
    return f"There is no registered model {model!r}.{did_you_mean(model, names)}"


def _no_alias(registered: MlflowModel, alias: str) -> str:
    meant = did_you_mean(alias, registered.aliases)
    return f"No version of {registered.name!r} has the alias {alias!r}.{meant}"


def _aliases(registered: MlflowModel) -> str:
    has = ", ".join(f"{alias} → {version}" for alias, version in sorted(registered.aliases.items()))
    return f"aliases: {has or 'none'}"
