"""Rules over feature definitions, and whether a model may be trained on them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_mlops import FeatureRules
from airflow_mlops.engine.features.governance.lint import check_lint, check_training_use, lint
from airflow_mlops.engine.features.project.schema import FeatureRepo, OnDemandSchema, ServiceSchema, ViewSchema
from airflow_mlops.exceptions import ConfigError

OWNED = {"owner": "ops"}
STRICT = FeatureRules(tags="block", doubles="block")
BEGIN, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)


def repo(view=None, feature=None, service=None, on_demand=None, on_demand_feature=None) -> FeatureRepo:
    """A stored view `delays` (mean, rate), an on-demand view `ratio` of its `rate`, a service of `mean` and `ratio`."""
    delays = ViewSchema(
        keys={"carrier": "string"},
        features={"mean": "double", "rate": "double", "unused": "double"},
        ttl_seconds=60.0,
        tags=OWNED | (view or {}),
        feature_tags=feature or {},
    )
    ratio = OnDemandSchema(
        request={"asked": "double"},
        views=("delays",),
        features={"ratio": "double"},
        code="c",
        reads={"delays": ("rate",)},
        tags=OWNED | (on_demand or {}),
        feature_tags=on_demand_feature or {},
    )
    v1 = ServiceSchema(
        views=("delays",),
        on_demand=("ratio",),
        features={"mean": "double", "ratio": "double"},
        request={"asked": "double"},
        tags=OWNED | {"model": "late"} | (service or {}),
    )
    return FeatureRepo(
        project="p", hash="h", views={"delays": delays}, services={"v1": v1}, on_demand={"ratio": ratio}, rules=STRICT
    )


def findings(*, severity="error", **changes) -> list[str]:
    return [str(finding) for finding in lint(repo(**changes)) if finding.severity == severity]


def test_good_definitions_break_nothing():
    everything = {
        "status": "active",
        "allowed_use": "late other",
        "valid_from": "2013-01-01",
        "valid_until": "2013-12-31",
        "derived_from_model": "models:/embedder/12",
        "columns": "departures.delay, lake.arrivals.late",
        "max_age": "2h",
        "parity_tolerance": "1e-6",
        "team": "free",
        "mode": "free",
        "order": "free",
        "tier": "free",
    }
    assert lint(repo(view=everything)) == []
    assert lint(repo(feature={"mean": everything})) == []
    assert lint(repo(service={"allowed_use": "*"})) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"view": {"owner": " "}}, "feature view 'delays'"),
        ({"on_demand": {"owner": ""}}, "on-demand view 'ratio'"),
        ({"service": {"owner": ""}}, "feature service 'v1'"),
    ],
)
def test_everything_has_an_owner(changes, where):
    [said] = findings(severity="warning", **changes)
    assert said.startswith(f"{where}: It has no owner.")
    assert [one.severity for one in lint(repo(**changes))] == ["warning"], "a repository of somebody else has none"


@pytest.mark.parametrize(
    ("tag", "text", "fix"),
    [
        ("status", "depracated", "Did you mean 'deprecated'?"),
        ("status", "BLOCKED", "Did you mean 'blocked'?"),
        ("status", "", "Write one of active, deprecated, blocked."),
        ("valid_from", "01.02.2013", "2013-01-15"),
        ("valid_from", "2013-02-30", "2013-01-15"),
        ("valid_until", "20130201", "2013-01-15"),
        ("max_age", "2 hours", "30s, 10m, 2h"),
        ("parity_tolerance", "-0.1", "not negative"),
        ("parity_tolerance", "nan", "not negative"),
        ("parity_tolerance", "a little", "not negative"),
        ("derived_from_model", "embedder", "Pin the version"),
        ("derived_from_model", "models:/embedder@champion", "Pin the version"),
        ("derived_from_model", "models:/embedder/latest", "Pin the version"),
        ("derived_from_model", "models:/embedder/0", "Pin the version"),
        ("columns", "delay", "dataset.column"),
        ("allowed_use", " ", "at least one word"),
    ],
)
def test_values_that_cannot_be_read(tag, text, fix):
    for changes in (
        {"view": {tag: text}},
        {"feature": {"unused": {tag: text}}},
        {"on_demand_feature": {"ratio": {tag: text}}},
    ):
        [said] = findings(**changes)
        assert tag in said
        assert fix in said


@pytest.mark.parametrize(
    ("tag", "meant"),
    [
        ("Owner", "owner"),
        ("allowed-use", "allowed_use"),
        ("alowed_use", "allowed_use"),
        ("statuss", "status"),
        ("valid_form", "valid_from"),
        ("derived_from_models", "derived_from_model"),
        ("max_ages", "max_age"),
    ],
)
def test_tags_that_were_meant_to_be_ours(tag, meant):
    [said] = findings(view={tag: "x"})
    assert f"Did you mean {meant!r}?" in said


def test_an_interval_that_ends_before_it_begins():
    [said] = findings(view={"valid_from": "2013-02-01", "valid_until": "2013-02-01"})
    assert "valid_from=2013-02-01 is not before valid_until=2013-02-01" in said


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"view": {"status": "blocked"}}, "feature view 'delays'"),
        ({"feature": {"mean": {"status": "blocked"}}}, "feature 'delays:mean'"),
        ({"feature": {"rate": {"status": "blocked"}}}, "feature 'delays:rate'"),  # read by the on-demand view only
        ({"on_demand": {"status": "blocked"}}, "on-demand view 'ratio'"),
        ({"on_demand_feature": {"ratio": {"status": "blocked"}}}, "feature 'ratio:ratio'"),
    ],
)
def test_nothing_blocked_is_used(changes, what):
    [said] = findings(**changes)
    assert said.startswith(f"feature service 'v1': It uses {what}, which is blocked.")
    assert findings(**changes, service={"status": "deprecated"}) == [said]


def test_what_is_blocked_may_lie_there_unused():
    assert findings(feature={"unused": {"status": "blocked"}}) == []


def test_only_a_deprecated_service_uses_what_is_deprecated():
    changes = {"feature": {"mean": {"status": "deprecated"}}}
    [said] = findings(**changes)
    assert "It uses feature 'delays:mean', which is deprecated." in said
    assert findings(**changes, service={"status": "deprecated"}) == []


def test_use_that_is_not_allowed():
    limited = {"feature": {"mean": {"allowed_use": "early"}}}
    [said] = findings(**limited)
    assert "It is for model 'late' and uses feature 'delays:mean', which is for model 'early' only." in said
    [said] = findings(**limited, service={"model": "early late"})
    assert "It is for model 'late' and uses" in said
    [said] = findings(**limited, service={"model": "", "allowed_use": "early late"})[-1:]
    assert "It is for model 'late' and uses" in said
    assert findings(**limited, service={"model": "early"}) == []


def test_a_service_for_anyone_with_a_feature_for_one_model_is_a_warning():
    nobody = repo(feature={"mean": {"allowed_use": "early"}})
    nobody.services["v1"].tags.pop("model")
    [warning] = check_lint(nobody)
    assert "is for anyone" in warning.what
    assert "'model': 'early'" in warning.fix.replace('"', "'")


def test_one_error_lists_all():
    with pytest.raises(ConfigError) as error:
        check_lint(repo(view={"owner": "", "max_age": "soon"}, feature={"mean": {"status": "blocked"}}))
    assert error.value.headline == "The feature definitions break 2 rules; nothing was applied."
    for part in ("max_age='soon'", "'delays:mean', which is blocked"):
        assert part in error.value.detail


# --- names ----------------------------------------------------------------------------------------------------


def changed(good: FeatureRepo, where: str, old: str, new: str | None = None, **fields) -> list[str]:
    """What lint says of a repository in which something is named otherwise, or has other fields."""
    named = {
        (new or name if name == old else name): one.model_copy(update=fields if name == old else {})
        for name, one in getattr(good, where).items()
    }
    return [str(finding) for finding in lint(good.model_copy(update={where: named}))]


BAD_NAMES = ["user-item", "pä ir", "a/../b", "1st", "a.b", "größe", "a\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_no_file_or_online_table_can_have(name):
    apart = repo().model_copy(update={"services": {}, "on_demand": {}})
    [said] = changed(apart, "views", "delays", name)
    assert said.startswith(f"feature view {name!r}: Its name cannot be")
    apart = repo().model_copy(update={"services": {}})
    [said] = changed(apart, "on_demand", "ratio", name)
    assert said.startswith(f"on-demand view {name!r}: Its name cannot be")
    [said] = changed(repo(), "services", "v1", name)
    assert said.startswith(f"feature service {name!r}: Its name cannot be")


@pytest.mark.parametrize("name", ["_a", "A1", "a__b", "user_item_2"])
def test_names_that_are_fine(name):
    apart = repo().model_copy(update={"services": {}, "on_demand": {}})
    assert changed(apart, "views", "delays", name) == []


@pytest.mark.parametrize("name", ["", "event_timestamp", "created_timestamp", "carrier"])
def test_feature_names_that_cannot_be(name):
    good = repo()
    for where, view in (("views", "delays"), ("on_demand", "ratio")):
        features = getattr(good, where)[view].features | {name: "double"}
        [said] = changed(good, where, view, features=features)
        assert said.startswith(f"feature {f'{view}:{name}'!r}: ")


@pytest.mark.parametrize("name", ["a b", "a/b", "a.b", "a:b", "a\tb"])
def test_feature_names_that_work_and_mislead_are_a_warning(name):
    delays = repo().views["delays"]
    odd = delays.model_copy(update={"features": delays.features | {name: "double"}})
    [warning] = check_lint(repo().model_copy(update={"views": {"delays": odd}}))
    assert warning.where == f"feature {f'delays:{name}'!r}"


@pytest.mark.parametrize("name", ["größe", "user-item", "1h", "a__b"])
def test_feature_names_that_can_be(name):
    good = repo()
    assert changed(good, "views", "delays", features=good.views["delays"].features | {name: "double"}) == []


def test_a_service_with_two_features_of_one_name():
    [said] = changed(repo(), "services", "v1", doubles={"mean": ("delays", "other")})
    assert said.startswith("feature service 'v1': It has two features 'mean': of 'delays' and 'other'. Rename one;")


def test_nothing_is_without_features():
    assert changed(repo(), "services", "v1", features={}) == [
        "feature service 'v1': It has no features. Give it features=[...]."
    ]
    [said] = changed(repo().model_copy(update={"services": {}}), "on_demand", "ratio", features={})
    assert said == "on-demand view 'ratio': It has no features. Give it a schema."


# --- training -------------------------------------------------------------------------------------------------


def test_a_model_may_be_trained_on_what_is_allowed_and_valid():
    valid = {"allowed_use": "late", "valid_from": "2013-01-01", "valid_until": "2013-03-01"}
    check_training_use(
        repo(view=valid, feature={"unused": {"status": "blocked"}}), "v1", "late", BEGIN, END, rules=STRICT
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"view": {"status": "blocked"}}, "feature view 'delays': It is blocked."),
        ({"feature": {"rate": {"status": "blocked"}}}, "feature 'delays:rate': It is blocked."),
        ({"feature": {"mean": {"status": "deprecated"}}}, "feature 'delays:mean': It is deprecated."),
        ({"service": {"status": "deprecated"}}, "feature service 'v1': It is deprecated."),
        ({"view": {"allowed_use": "later"}}, "It is for model 'later' only. Did you mean 'later'?"),
        ({"service": {"allowed_use": "other"}}, "feature service 'v1': It is for model 'other' only."),
        ({"feature": {"mean": {"derived_from_model": "models:/e@champion"}}}, "Pin the version"),
        ({"view": {"status": "bloked"}}, "status='bloked' cannot be read."),
        (
            {"feature": {"mean": {"valid_from": "2013-01-02"}}},
            "feature 'delays:mean': It is valid at event times from 2013-01-02.",
        ),
        (
            {"feature": {"rate": {"valid_from": "2012-01-01", "valid_until": "2013-02-28"}}},
            "feature 'delays:rate': It is valid at event times from 2012-01-01 until before 2013-02-28.",
        ),
        ({"on_demand": {"valid_until": "2012-12-31"}}, "on-demand view 'ratio': It is valid at event times until"),
    ],
)
def test_training_is_refused(changes, said):
    with pytest.raises(ConfigError) as error:
        check_training_use(repo(**changes), "v1", "late", BEGIN, END, rules=STRICT)
    assert "Model 'late' must not be trained on feature service 'v1'." in error.value.headline
    assert said in error.value.detail
    assert "2013-01-01T00:00:00+00:00 to 2013-03-01T00:00:00+00:00" in error.value.detail


def test_an_unknown_service_is_said():
    with pytest.raises(ConfigError, match="There is no feature service 'v3'"):
        check_training_use(repo(), "v3", "late", BEGIN, END)
