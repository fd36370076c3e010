"""Rules that feature definitions must keep, and whether a model may be trained on a feature service.

What the tags mean is said in :mod:`airflow_mlops.engine.features.governance.tags`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal

from airflow_mlops.contracts import Record
from airflow_mlops.engine.features.governance.tags import (
    allowed_models,
    meant_tag,
    models_of,
    readable,
    status_of,
    validity,
    wrong_value,
)
from airflow_mlops.engine.features.project.schema import FeatureRepo, OnDemandSchema, ViewSchema
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feature_rules import FeatureRules, Strictness


class Finding(Record):
    """A rule that a definition breaks. Only an error keeps it from being applied."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.fix}".rstrip()


def lint(repo: FeatureRepo) -> list[Finding]:
    """Return what a repository's definitions break, errors first."""
    found = [finding for where, tags in _places(repo) for finding in _as(repo.rules.tags, _values(where, tags))]
    found += _names_of(repo)
    for kind, owned in _OWNED.items():
        for name, one in getattr(repo, owned).items():
            if not one.tags.get("owner", "").strip():
                fix = 'Add tags={"owner": "<team or person>"}.'
                found += _as(repo.rules.owner, [_error(f"{kind} {name!r}", "It has no owner.", fix)])
    for name in repo.services:
        found += _service(repo, name)
    return sorted(found, key=lambda finding: finding.severity)


def check_lint(repo: FeatureRepo) -> list[Finding]:
    """Refuse definitions that break a rule, and return the warnings.

    :raises ConfigError: naming all that they break.
    """
    found = lint(repo)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise ConfigError(
            f"The feature definitions break {len(errors)} rule{'s' if len(errors) > 1 else ''}; nothing was applied.",
            detail=_listed(f"Feast project {repo.project!r}", errors),
            hint="Correct them in the feature repository.",
        )
    return [finding for finding in found if finding.severity == "warning"]


def check_training_use(
    repo: FeatureRepo,
    service: str,
    model: str,
    begin: datetime,
    end: datetime,
    *,
    rules: FeatureRules = FeatureRules(),  # noqa: B008  frozen
) -> None:
    """Refuse to train a model on a feature service of which something must not be used for it.

    That is: blocked or deprecated, not allowed for this model, computed by a model without a pinned version, or not
    valid at all of the prediction times. Feast alone may have registered the definitions, so their tags are read
    with suspicion.

    :param model: Name of the model to train.
    :param begin: First prediction time.
    :param end: End of the prediction times, which is not one of them.
    :param rules: How strictly tags are looked at that cannot be read.
    :raises ConfigError: naming everything that stands against it; or when there is no such service.
    """
    found: list[Finding] = []
    for where, tags in (*_used(repo, service), (f"feature service {service!r}", repo.service(service).tags)):
        wrong = _as(rules.tags, _values(where, tags))
        found += wrong if rules.tags == "block" and wrong else _training(where, readable(tags), model, begin, end)
    found += _doubles(repo, service)
    errors = [finding for finding in found if finding.severity == "error"]
    if errors:
        raise ConfigError(
            f"Model {model!r} must not be trained on feature service {service!r}.",
            detail=_listed(f"prediction times {begin.isoformat()} to {end.isoformat()}", errors),
            hint="Train on another version of the service, such as one without these features, or on another window; "
            "or have the owner change the tags.",
        )


# --- which tags there are -----------------------------------------------------------------------------------

_OWNED = {"feature view": "views", "on-demand view": "on_demand", "feature service": "services"}
_GIVE = {"views": "a schema", "on_demand": "a schema", "services": "features=[...]"}

Place = tuple[str, Mapping[str, str]]


def _places(repo: FeatureRepo) -> Iterator[Place]:
    """Yield everything that has tags of ours, and the tags."""
    for kind, name in _OWNED.items():
        for one, schema in getattr(repo, name).items():
            yield f"{kind} {one!r}", schema.tags
            if isinstance(schema, (ViewSchema, OnDemandSchema)):
                yield from ((f"feature {f'{one}:{name}'!r}", tags) for name, tags in schema.feature_tags.items())


def _used(repo: FeatureRepo, service: str) -> Iterator[Place]:
    """Yield the views and features that a service reads, and their tags; also those behind its on-demand views."""
    for name, features in repo.reads(service).items():
        stored = name in repo.views
        view = repo.views[name] if stored else repo.on_demand[name]
        yield f"{'feature' if stored else 'on-demand'} view {name!r}", view.tags
        for feature in features:
            if feature in view.feature_tags:
                yield f"feature {f'{name}:{feature}'!r}", view.feature_tags[feature]


# --- the rules ----------------------------------------------------------------------------------------------


def _values(where: str, tags: Mapping[str, str]) -> list[Finding]:
    """Return which of a place's tags cannot be read."""
    found = []
    for tag, text in tags.items():
        if (fix := wrong_value(tag, text)) is not None:
            found.append(_error(where, f"{tag}={text!r} cannot be read.", fix))
        elif (meant := meant_tag(tag)) is not None:
            found.append(_error(where, f"The tag {tag!r} means nothing.", f"Did you mean {meant!r}?"))
    if not found:
        begin, end = validity(tags)
        if begin is not None and end is not None and begin >= end:
            what = f"valid_from={tags['valid_from']} is not before valid_until={tags['valid_until']}."
            found.append(_error(where, what, "valid_until is the first day on which it is not valid any more."))
    return found


def _service(repo: FeatureRepo, service: str) -> Iterator[Finding]:
    """Yield what a service uses and must not."""
    here, tags = f"feature service {service!r}", repo.services[service].tags
    models = models_of(tags)
    for where, used in _used(repo, service):
        if status_of(used) == "blocked" and status_of(tags) != "blocked":
            fix = 'Take it out; or, while a model still serves from it, tag the service status="blocked" too.'
            yield _error(here, f"It uses {where}, which is blocked.", fix)
        if status_of(used) == "deprecated" and status_of(tags) == "active":
            fix = 'Take it out, or tag the service status="deprecated" too: what serves from it goes on serving.'
            yield _error(here, f"It uses {where}, which is deprecated.", fix)
        allowed = allowed_models(used)
        if allowed is None:
            continue
        use = f"{where}, which is for {_names(allowed)} only"
        if models is None:
            fix = f'Say for which models it is: tags={{"model": "{min(allowed)}"}}.'
            yield Finding(severity="warning", where=here, what=f"It uses {use}, and is for anyone.", fix=fix)
        elif others := models - allowed:
            fix = "Take it out, or have its owner add the model to allowed_use."
            yield _error(here, f"It is for {_names(others)} and uses {use}.", fix)


def _training(where: str, tags: Mapping[str, str], model: str, begin: datetime, end: datetime) -> Iterator[Finding]:
    """Yield what of a place, whose tags can be read, stands against training a model."""
    if (status := status_of(tags)) != "active":
        yield _error(where, f"It is {status}.", "")
    allowed = allowed_models(tags)
    if allowed is not None and model not in allowed:
        yield _error(where, f"It is for {_names(allowed)} only.{did_you_mean(model, allowed)}", "")
    first, last = validity(tags)
    if (first is not None and begin < first) or (last is not None and end > last):
        since = f" from {first:%Y-%m-%d}" if first is not None else ""
        until = f" until before {last:%Y-%m-%d}" if last is not None else ""
        yield _error(where, f"It is valid at event times{since}{until}.", "")


# --- the rules of names -------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ODD_FEATURE_NAME = re.compile(r"[\s/.:]")
_RESERVED = ("event_timestamp", "created_timestamp")


def _names_of(repo: FeatureRepo) -> Iterator[Finding]:
    """Yield the names that a file, an online store or a reference cannot hold, and those that stand for two things."""
    for kind, owned in _OWNED.items():
        for name, one in getattr(repo, owned).items():
            if not _NAME.fullmatch(name):
                fix = "Use the letters A to Z, digits and underscores, and a letter or an underscore first."
                yield _error(f"{kind} {name!r}", "Its name cannot be that of a file or of an online table.", fix)
            if not one.features:
                yield _error(f"{kind} {name!r}", "It has no features.", f"Give it {_GIVE[owned]}.")
    for name, view in repo.views.items():
        yield from _feature_names(name, view.features, dict.fromkeys(view.keys, "its join key"))
    for name, computed in repo.on_demand.items():
        keys = {key: f"a join key of {behind!r}" for behind in computed.views for key in repo.views[behind].keys}
        yield from _feature_names(name, computed.features, keys)
    for name in repo.services:
        yield from _as(repo.rules.doubles, _doubles(repo, name))


def _doubles(repo: FeatureRepo, service: str) -> list[Finding]:
    found = []
    for feature, views in repo.services[service].doubles.items():
        what = f"It has two features {feature!r}: of {' and '.join(map(repr, views))}."
        fix = f"Rename one; or name the features that it takes, without one of them: {views[-1]}[[...]]."
        found.append(_error(f"feature service {service!r}", what, f"{fix} An alias, with_name(), renames no feature."))
    return found


def _feature_names(view: str, features: Collection[str], keys: Mapping[str, str]) -> Iterator[Finding]:
    for feature in features:
        where = f"feature {f'{view}:{feature}'!r}"
        if not feature:
            yield _error(where, "It has no name.", "Give it one.")
        elif _ODD_FEATURE_NAME.search(feature):
            what = (
                "Its name has white space, '/', '.' or ':', which are read, but mean something in references and paths."
            )
            yield Finding(severity="warning", where=where, what=what, fix="Use underscores.")
        if feature in _RESERVED:
            yield _error(where, "That is the name of a column of time, which each view has.", "Rename it.")
        elif feature in keys:
            yield _error(where, f"That is the name of {keys[feature]}.", "Rename it.")


# --- words --------------------------------------------------------------------------------------------------


def _error(where: str, what: str, fix: str) -> Finding:
    return Finding(severity="error", where=where, what=what, fix=fix)


def _as(strictness: Strictness, findings: Sequence[Finding]) -> list[Finding]:
    """Return findings as severe as a rule is strict."""
    if strictness == "off":
        return []
    severity = "error" if strictness == "block" else "warning"
    return [finding.model_copy(update={"severity": severity}) for finding in findings]


def _names(models: Collection[str]) -> str:
    return f"model {', '.join(map(repr, sorted(models)))}"


def _listed(where: str, findings: Sequence[Finding]) -> str:
    return "\n    ".join([where, *map(str, findings)])
