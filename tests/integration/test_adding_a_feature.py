"""A feature is added to a view that a served model reads: computed in bulk, trained on, deployed, rolled back."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.governance.consumers import check_features, record_model
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.serving.deployments import ask_for, unpin
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.exceptions import DataError, GateError
from tests.integration.test_history import CODE
from tests.rides import FIRST, MODEL, Rides, midnight
from tests.rides_serving import Service, golden, in_service, trained
from tests.serving_fixtures import put_into_service

DAYS = 8
PIPELINE = "ride_pipeline.py:ride_delay"


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Eight days, a model that was trained on them, and what is online."""
    world = Rides.make(tmp_path_factory.mktemp("before"), DAYS)
    (world.dags / "ride_pipeline.py").write_text(CODE)
    snapshot = world.snapshot(DAYS)
    record_model(world.ledger, MODEL, 1, snapshot)
    return world, snapshot, trained(world.home, snapshot)


def copied(world: Rides, folder: Path) -> Rides:
    for name in ("home", "repo", "dags"):
        shutil.copytree(getattr(world, name), folder / name)
    return Rides(folder)


def command(world: Rides, *words: str) -> int:
    place = ["--home", str(world.home), "--ledger", world.ledger.url, "--repo", str(world.repo)]
    for module in ("ride_pipeline", "ride_features"):
        sys.modules.pop(module, None)
    return cli.main([*words, *place])


def compute(world: Rides) -> int:
    return command(world, "features", "compute", str(world.dags / PIPELINE), "--workers", "1")


def add_feature(world: Rides) -> None:
    """As a person would: one more field and column, a service that reads it beside the one there is, and its name."""
    world.edit(
        "definitions.py",
        'Field(name="zone_late_rate", dtype=Float64)]',
        'Field(name="zone_late_rate", dtype=Float64), Field(name="zone_km", dtype=Float64)]',
    )
    world.edit(
        "definitions.py",
        'rides_v1 = FeatureService(name="rides_v1", features=[ride_request, zone_delays,',
        "rides_v2 = FeatureService(\n"
        '    name="rides_v2", features=[ride_request, zone_delays, last_ride[["last_minutes"]]], tags=TAGS)\n'
        "rides_v1 = FeatureService(\n"
        '    name="rides_v1", features=[ride_request, zone_delays[["zone_rides", "zone_late_rate"]],',
    )
    world.edit(
        "ride_features.py",
        '"zone_late_rate": of_zone.mean().astype(float),',
        '"zone_late_rate": of_zone.mean().astype(float), "zone_km": seen.groupby("zone")["km"].mean(),',
    )
    pipeline = world.dags / "ride_pipeline.py"
    pipeline.write_text(pipeline.read_text().replace('"rides_v1", transform', '"rides_v2", transform'))


def test_a_feature_is_added_deployed_rolled_back_and_deployed_again(before, tmp_path, capsys):
    first, saved_model = before[1:]
    world = copied(before[0], tmp_path)
    ledger = world.ledger
    assert command(world, "features", "materialize", "rides_v1") == 0
    with in_service(world.home, saved_model) as service:
        add_feature(world)
        assert command(world, "features", "apply") == 0
        with pytest.raises(DataError, match="computed by other code"):
            world.snapshot(DAYS, service="rides_v2")
        assert compute(world) == 0
        assert command(world, "features", "materialize", "rides_v2") == 0
        said = capsys.readouterr().out
        assert "+ feature zone_delays:zone_km" in said
        assert f"features of {DAYS} computed" in said
        assert f"zone_delays: written from {midnight(DAYS - 1):%Y-%m-%d}" in said

        second = world.snapshot(DAYS, service="rides_v2")
        assert second.features.keys() - first.features.keys() == {"zone_km"}
        record_model(ledger, MODEL, 2, second)
        wider = trained(world.home, second)
        with pytest.raises(GateError, match="not the one that callers use now") as refused:
            publish(wider, service.rollout.base, 2, serving=1)
        assert "input 'zone_km' is new" in refused.value.detail
        publish(wider, service.rollout.base, 2, serving=1, signature_changes="additive")
        check_features(ledger, MODEL, 2)
        put_into_service(service.rollout, 2)
        assert answer(world, service, "rides_v2") == 2

        # The view has other code, and the same values of what the first version reads.
        service.rollout.rollback("me", "a drill", check=lambda version: check_features(ledger, MODEL, version))
        assert answer(world, service, "rides_v1") == 1
        assert service.answers(golden(saved_model))
        unpin(ledger, service.rollout.server, MODEL, "me", "it was a drill")
        ask_for(ledger, service.rollout.server, MODEL, 2, "it was a drill")
        check_features(ledger, MODEL, 2)
        put_into_service(service.rollout, 2)
        assert answer(world, service, "rides_v2") == 2


def answer(world: Rides, service: Service, features: str) -> int:
    """Ask as a caller would who knows keys and request fields only; return the version that answered."""
    version, signature = service.rollout.client.metadata(MODEL, label="stable")
    reader = OnlineReader(world.location, features)
    row = {"zone": "a", "driver": "D01", "called_at": midnight(DAYS) + timedelta(hours=1), "km": 3.0}
    [request] = reader.inputs([row], signature)
    assert request["zone"] == "a", "a join key that is an input itself"
    [probability] = service.answers({name: [value] for name, value in request.items()})
    assert 0 < probability < 1
    return version


def test_a_feature_with_other_values_is_another_one(before, tmp_path):
    world, _, _ = before
    changed = copied(world, tmp_path)
    changed.edit("ride_features.py", "of_zone.size().astype(float)", "of_zone.size().astype(float) + 1")
    ensure_applied(changed.location, changed.ledger)
    assert compute(changed) == 0
    assert command(changed, "features", "materialize", "rides_v1") == 0
    with pytest.raises(GateError, match="not what it was trained on") as refused:
        check_features(changed.ledger, MODEL, 1)
    assert "'zone_delays' is computed" in refused.value.detail or "zone_rides differ" in refused.value.detail
    assert "zone_late_rate" not in refused.value.detail, "that one is the same"


def test_days_that_were_not_compared_prove_nothing(before, tmp_path):
    world, _, _ = before
    changed = copied(world, tmp_path)
    changed.edit("ride_features.py", '"""One day."""', "assert day")
    ensure_applied(changed.location, changed.ledger)
    last = str(FIRST + timedelta(days=DAYS - 1))
    assert command(changed, "features", "compute", str(changed.dags / PIPELINE), "--from", last, "--workers", "1") == 0
    assert command(changed, "features", "materialize", "rides_v1", "--until", last) == 0
    with pytest.raises(GateError, match="not what it was trained on"):
        check_features(changed.ledger, MODEL, 1)
    assert compute(changed) == 0
    check_features(changed.ledger, MODEL, 1)
