"""Operators on a registered model and its versions: aliases, tags, comparing, copying, deleting what is old.

They work on versions that anybody registered. Those of a training of this package are in ``operators/mlflow.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowModelVersionLink
from airflow_mlops.operators.base import MlopsOperator, require, said, version_or_alias, whole_version

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.registry.comparing import Comparison
    from airflow_mlops.engine.registry.copying import Copy

REGISTERED_MODEL = "*"
"""In place of a version: the registered model itself. No alias can be written so."""


class DeletedAlias(TypedDict):
    """An alias that is no more, and the version that it pointed to; None when there was none."""

    model: str
    alias: str
    version: int | None


class TaggedModel(TypedDict):
    """A version, or with None the registered model itself, and the tags that were set, or deleted."""

    model: str
    version: int | None
    tags: list[str]


class ComparedVersions(TypedDict):
    """Metric → version → value (None: its run has none), and metric → the version that is best (None: not known, or
    alike). ``same_data``: all were measured on the same rows.
    """

    model: str
    versions: list[int]
    table: dict[str, dict[str, float | None]]
    best: dict[str, int | None]
    same_data: bool


class CopiedVersion(TypedDict):
    """A copy of a version, where its files lie, and of which version it is."""

    model: str
    version: int
    run_id: str
    source: str
    copied_from: str


class DeletedVersions(TypedDict):
    """The versions that went, or would go; and version → why it stays."""

    model: str
    deleted: list[int]
    spared: dict[str, str]
    only_said: bool


class RegisteredModelOperator(MlopsOperator):
    """An operator on a registered model.

    :param model: Name of the model in the registry.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "mlflow_conn_id")
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(self, *, model: str, mlflow_conn_id: str = MLflowHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id

    def hook(self) -> MLflowHook:
        """Return the hook.

        :raises ConfigError: when the model came out empty.
        """
        require(said(self.model), "model", "Name the registered model.")
        return MLflowHook(self.mlflow_conn_id)

    def link(self, context: Context, version: int | None) -> None:
        """Link to a version, or to the model."""
        hook = self.hook()
        url = hook.model_url(self.model) if version is None else hook.version_url(self.model, str(version))
        MLflowModelVersionLink.persist(context, url)


class MLflowDeleteAliasOperator(RegisteredModelOperator):
    """Take an alias away from the version that has it. Where there is no such alias, it is done already.

    Use it when nothing is to be found by that name any more.

    :param alias: Which alias.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "alias")

    def __init__(self, *, alias: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alias = alias

    def perform(self, context: Context) -> DeletedAlias:
        """Delete the alias; say which version had it."""
        from airflow_mlops.engine.registry.tags import delete_alias

        alias = require(said(self.alias), "alias", "Name one, such as challenger.")
        version = delete_alias(self.hook().get_conn(), self.model, alias)
        if version is None:
            self.log.warning("No version of %r has the alias %r: there is nothing to delete.", self.model, alias)
        self.link(context, version)
        return DeletedAlias(model=self.model, alias=alias, version=version)


class MLflowSetModelTagOperator(RegisteredModelOperator):
    """Set tags of a version, or of the registered model itself, over what they were.

    Use it to keep a decision with the version, for people or for a sensor that waits for it.

    :param tags: Name → value, which is kept as text.
    :param version: Number or alias of the version. Left out: the registered model itself.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "tags", "version")

    def __init__(self, *, tags: Mapping[str, Any], version: int | str = REGISTERED_MODEL, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.version = version

    def perform(self, context: Context) -> TaggedModel:
        """Set the tags."""
        from airflow_mlops.engine.registry.tags import set_tags

        if not isinstance(self.tags, Mapping) or not self.tags:
            raise ConfigError(
                "There is no tag to set.", detail=f"tags={self.tags!r}", hint='Such as tags={"validated_by": "qa"}.'
            )
        instead = "To take a tag away, use MLflowDeleteModelTagOperator."
        tags = {str(name): require(said(value), f"tag {name!r}", instead) for name, value in self.tags.items()}
        version = set_tags(self.hook().get_conn(), self.model, _version_or_model(self.version), tags)
        self.link(context, version)
        return TaggedModel(model=self.model, version=version, tags=sorted(tags))


class MLflowDeleteModelTagOperator(RegisteredModelOperator):
    """Delete tags of a version, or of the registered model itself. A tag that is not there is deleted already.

    Use it when what a tag said does not hold any more.

    :param tags: Names of the tags.
    :param version: Number or alias of the version. Left out: the registered model itself.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "tags", "version")

    def __init__(self, *, tags: Sequence[str], version: int | str = REGISTERED_MODEL, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tags = tags
        self.version = version

    def perform(self, context: Context) -> TaggedModel:
        """Delete the tags."""
        from airflow_mlops.engine.registry.tags import delete_tags

        tags = _names(self.tags, "tags", 'Such as tags=["validated_by"].')
        version = delete_tags(self.hook().get_conn(), self.model, _version_or_model(self.version), tags)
        self.link(context, version)
        return TaggedModel(model=self.model, version=version, tags=tags)


class MLflowCompareModelsOperator(RegisteredModelOperator):
    """Hold two versions or more against each other, on the metrics that their runs logged last.

    Use it to show people the numbers. What serves is decided by
    :class:`~airflow_mlops.operators.mlflow.MLflowJudgeModelOperator`.

    Which version is better is said where a problem type knows the metric (``auc`` up, ``log_loss`` down). The values
    are of the rows that each was measured on; ``same_data`` says whether these were the same.

    :param versions: Numbers or aliases.
    :param metrics: Names of metrics; none: all of the problem types that any of the runs has.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "versions", "metrics")

    def __init__(self, *, versions: Sequence[int | str], metrics: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.versions = versions
        self.metrics = metrics

    def perform(self, context: Context) -> ComparedVersions:
        """Compare, and show the table in the log."""
        from airflow_mlops.engine.registry.comparing import compare

        hint = 'Such as versions=["champion", "challenger"].'
        wanted = [version_or_alias(one) for one in _names(self.versions, "versions", hint)]
        metrics = _names(self.metrics, "metrics", 'Such as metrics=["auc"].') if self.metrics else []
        found = compare(self.hook().get_conn(), self.model, wanted, metrics)
        self.link(context, None)
        self._show(found)
        return ComparedVersions(
            model=self.model,
            versions=list(found.versions),
            table={name: {str(number): value for number, value in row.items()} for name, row in found.table.items()},
            best=dict(found.best),
            same_data=found.same_data,
        )

    def _show(self, found: Comparison) -> None:
        for metric, values in found.table.items():
            row = ", ".join(f"{number}: {'-' if value is None else f'{value:g}'}" for number, value in values.items())
            best = found.best[metric]
            self.log.info("%s  %s%s", metric, row, "" if best is None else f"  (best: version {best})")
        if not found.same_data:
            self.log.warning("It is not known that these versions were measured on the same rows.")


class MLflowCopyModelVersionOperator(RegisteredModelOperator):
    """Copy a version to another registered model, or into another registry: from staging to production.

    Within one registry both versions have the same files. Into another one the files go along, byte for byte, with
    their checksums and the manifest, and so do the parameters, metrics and documents of the run. The same copy again
    is the version that is there already. A copy is deployed once it was judged under its own name and number.

    :param version: Number or alias of the version.
    :param to_model: Name of the copy's registered model, which is made if need be; empty keeps the name.
    :param to_mlflow_conn_id: Airflow connection of type ``mlflow`` of the other registry; empty: the same registry.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "version", "to_model", "to_mlflow_conn_id")

    def __init__(
        self, *, version: int | str, to_model: str | None = None, to_mlflow_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.to_model = to_model
        self.to_mlflow_conn_id = to_mlflow_conn_id

    def perform(self, context: Context) -> CopiedVersion:
        """Copy, and return the copy."""
        wanted, to_model = version_or_alias(self.version), said(self.to_model) or self.model
        here = self.hook()
        there = MLflowHook(said(self.to_mlflow_conn_id) or self.mlflow_conn_id)
        copy = _copy(here, self.model, wanted, there, to_model)
        version = whole_version(copy.made.version)
        MLflowModelVersionLink.persist(context, there.version_url(to_model, copy.made.version))
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"model": to_model, "version": version}
        return CopiedVersion(
            model=to_model, version=version, run_id=copy.made.run_id, source=copy.made.source, copied_from=copy.of
        )


class MLflowDeleteModelVersionsOperator(RegisteredModelOperator):
    """Delete old versions from the registry; never one that somebody needs. The log says what goes, and what stays why.

    Use it on a schedule, so that a registry does not grow for ever.

    Spared are the newest ``keep``, what has an alias, and by the ledger what serves, is loaded, pinned, asked for by
    number or can be gone back to, on any server, and what passed its gates last. MLflow keeps the runs of deleted
    versions and their files.

    :param keep: How many of the newest stay; 1 at least.
    :param only_say: Say what would go, and delete nothing.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``; None when this package deploys nothing of it.
    """

    template_fields = (*RegisteredModelOperator.template_fields, "keep", "only_say", "ledger_conn_id")

    def __init__(
        self,
        *,
        keep: int | str,
        only_say: bool | str = False,
        ledger_conn_id: str | None = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keep = keep
        self.only_say = only_say
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> DeletedVersions:
        """Say what is old, and delete it."""
        from airflow_mlops.engine.registry.deleting import delete_versions

        if not said(self.keep).isdecimal():
            raise ConfigError(
                f"{self.keep!r} is not a number of versions.",
                detail=f"keep={self.keep!r} after rendering",
                hint="It must be a whole number from 1 on.",
            )
        only_say = said(self.only_say).lower()
        if only_say not in ("true", "false"):
            raise ConfigError(
                "It must be clear whether versions are deleted.",
                detail=f"only_say={self.only_say!r} after rendering",
                hint="Give True or False.",
            )
        ledger = None if self.ledger_conn_id is None else LedgerHook(self.ledger_conn_id).get_conn()
        registry = self.hook().get_conn()
        found = delete_versions(registry, ledger, self.model, keep=int(self.keep), dry_run=only_say == "true")
        for number, why in found.spared.items():
            self.log.info("stays: version %s, which %s", number, why)
        for number in found.deleted:
            self.log.info("%s: version %s", "would go" if only_say == "true" else "deleted", number)
        self.link(context, None)
        return DeletedVersions(
            model=self.model,
            deleted=list(found.deleted),
            spared={str(number): why for number, why in found.spared.items()},
            only_said=only_say == "true",
        )


def _copy(here: MLflowHook, model: str, wanted: str, there: MLflowHook, to_model: str) -> Copy:
    from airflow_mlops.engine.registry.connection import own_credentials
    from airflow_mlops.engine.registry.copying import copy_id, copy_within, find_copy, put, take

    if _address(here) == _address(there):
        return copy_within(here.get_conn(), model, wanted, to_model)
    identity = copy_id(here.get_conn(lookups_only=True), model, wanted)
    if (earlier := find_copy(there.get_conn(lookups_only=True), identity, to_model)) is not None:
        return earlier
    with tempfile.TemporaryDirectory() as folder:
        with own_credentials():
            original = take(here.get_conn(), model, wanted, Path(folder))
        with own_credentials():
            return put(there.get_conn(), original, to_model)


def _address(hook: MLflowHook) -> tuple[str, str]:
    from airflow_mlops.engine.registry.connection import without_credentials

    return without_credentials(hook.tracking_uri).rstrip("/"), hook.extra.get("registry_uri") or ""


def _version_or_model(version: int | str) -> str | None:
    """Return a rendered version as the registry is asked for it; None for the registered model itself."""
    return None if version == REGISTERED_MODEL else version_or_alias(version)


def _names(values: Sequence[Any], name: str, hint: str) -> list[str]:
    """Return a rendered list as texts.

    :raises ConfigError: when it is no list, or has nothing in it.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"{name} is no list of names.", detail=f"{name}={values!r} after rendering", hint=hint)
    return [require(said(value), name, hint) for value in values]
