"""``airflow-mlops features`` as a user meets it."""

from __future__ import annotations

import json
import logging

import pytest

from airflow_mlops.cli import main
from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.governance.cost import measure_cost
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError
from tests.governed_features import edit, governed, ledger_of, register, serve
from tests.online_stores import dynamodb_online, redis_online  # noqa: F401
from tests.small_features import day


@pytest.fixture
def location(tmp_path) -> Location:
    return governed(tmp_path, days=2)


@pytest.fixture
def ledger(location) -> Ledger:
    return ledger_of(location)


def run(location: Location, *command: str) -> int:
    logging.getLogger("feast").setLevel(logging.WARNING)
    place = ["--home", str(location.home), "--ledger", ledger_of(location).url, "--repo", str(location.repo)]
    return main(["features", *command, *place])


def test_plan_says_what_would_change_and_changes_nothing(location, ledger, capsys):
    assert run(location, "plan") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Feast project 'shops', nothing was applied before: 6 additive"
    assert "  + feature view shop_sales: 2 features [additive]" in said
    assert ledger.pointers("feature_repo:") == {}
    apply_repo(location, ledger)
    capsys.readouterr()
    assert run(location, "plan") == 0
    assert "no changes" in capsys.readouterr().out
    edit(location, "timedelta(days=3)", "timedelta(days=2)")
    assert run(location, "plan", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    [change] = said["changes"]
    assert (change["name"], change["effect"], change["services"]) == ("shop_sales", "breaking", ["shop_v1"])
    assert said["incomplete"] == []


def test_plan_exits_with_1_when_apply_would_refuse(location, ledger, capsys):
    apply_repo(location, ledger)
    register(ledger, 3)
    serve(ledger, 3)
    edit(location, "n * p if", "n + p if")
    capsys.readouterr()
    assert run(location, "plan") == 1
    said = capsys.readouterr()
    assert "refused: it would break turnover 3 (tf_serving_default: stable)" in said.out
    assert "shop_v2" in said.err
    edit(location, "n + p if", "n * p if")
    edit(location, "tags={**OWNED},  # tags of shop_sales", 'tags={**OWNED, "status": "blokked"},')
    assert run(location, "plan") == 0
    assert "warning: feature view 'shop_sales': status='blokked' cannot be read" in capsys.readouterr().out
    edit(location, "OWNED = ", "from airflow_mlops import FeatureRules\nRULES = FeatureRules(tags='block')\nOWNED = ")
    assert run(location, "plan") == 1
    assert "Did you mean 'blocked'?" in capsys.readouterr().err


def test_consumers(location, ledger, capsys):
    apply_repo(location, ledger)
    register(ledger, 3)
    serve(ledger, 3)
    capsys.readouterr()
    assert run(location, "consumers") == 0
    assert capsys.readouterr().out.splitlines() == [
        "feature             read by",
        "basket_worth:worth  turnover 3 (tf_serving_default: stable)",
        "item_price:price    turnover 3 (tf_serving_default: stable)",
        "shop_sales:sales    turnover 3 (tf_serving_default: stable)",
        "shop_sales:visits   -",
    ]
    assert run(location, "consumers", "shop_sales", "item_price:price", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["item_price:price", "shop_sales:sales", "shop_sales:visits"]
    assert said["item_price:price"][0]["version"] == 3
    assert run(location, "consumers", "shop_sale") == 1
    assert "Did you mean 'shop_sales'?" in capsys.readouterr().err


def test_unused(location, ledger, capsys):
    apply_repo(location, ledger)
    register(ledger, 3)
    serve(ledger, 3)
    capsys.readouterr()
    assert run(location, "unused") == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split(maxsplit=1) == [
        "shop_sales:visits",
        "no feature service reads it; no model was trained on it; no served model reads it",
    ]
    edit(location, 'features=[shop_sales[["sales"]], basket_worth]', "features=[basket_worth]")
    assert run(location, "unused", "--json") == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["shop_sales:visits"], (
        "as applied, not edited"
    )


@pytest.mark.parametrize("verb", ["consumers", "unused", "cost"])
def test_before_anything_was_applied(location, ledger, capsys, verb):
    ledger.check()
    assert run(location, verb) == 1
    assert "Nothing of this feature repository was applied yet" in capsys.readouterr().err


def test_a_repository_that_is_not_there(location, capsys, tmp_path):
    assert run(Location(tmp_path / "nowhere", location.home), "plan") == 1
    assert "no Feast repository at the configured path" in capsys.readouterr().err


def test_the_repository_is_found_by_the_connection_and_here(location, ledger, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    place = ["--home", str(location.home), "--ledger", ledger.url]
    assert main(["features", "plan", *place]) == 1
    assert "Pass --repo FOLDER" in capsys.readouterr().err
    (tmp_path / "feature_repo").symlink_to(location.repo)
    assert main(["features", "plan", *place]) == 0
    capsys.readouterr()
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(tmp_path / "gone")}))
    assert main(["features", "plan", *place]) == 1
    assert f"{tmp_path}/gone" in capsys.readouterr().err


def test_an_unknown_verb_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["features", "costs"])
    assert "invalid choice: 'costs'" in capsys.readouterr().err


# --- cost -----------------------------------------------------------------------------------------------------


def materialized(location: Location) -> None:
    from airflow_mlops.engine.features.project.store import open_store, quietly

    apply_repo(location, ledger_of(location))
    with quietly():
        open_store(location).materialize(day(0), day(2))


def test_cost_says_bytes_milliseconds_and_models(location, ledger, capsys):
    materialized(location)
    register(ledger, 3)
    capsys.readouterr()
    assert run(location, "cost", "--json") == 0
    costs = {one["view"]: one for one in json.loads(capsys.readouterr().out)}
    sales = costs["shop_sales"]
    assert (sales["days"], sales["rows"]) == (2, 2 * 24 * 3)
    files = list((location.home / "features" / "shop_sales").glob("*.parquet"))
    features = {one["feature"]: one for one in sales["features"]}
    parts = [one["offline_bytes"] for one in features.values()]
    assert sum(parts) + sales["keys_bytes"] == sales["offline_bytes"] < sum(file.stat().st_size for file in files)
    assert min(parts) > 0
    assert sum(one["online_bytes"] for one in features.values()) == sales["online_bytes"] > 3 * 2 * 20
    assert 0 < features["sales"]["online_ms"] < 50
    assert sales["models"] == {"sales": ["turnover 3"], "visits": []}
    assert run(location, "cost", "item_price") == 0
    said = capsys.readouterr().out
    assert "item_price" in said
    assert "shop_sales" not in said
    assert "turnover 3" in said
    assert run(location, "cost", "item_prise") == 1
    assert "Did you mean 'item_price'?" in capsys.readouterr().err


def test_cost_in_redis_is_sampled(location, redis_online):  # noqa: F811
    where = Location(location.repo, location.home, {"online_store": redis_online})
    materialized(where)
    sales, price = (
        next(one for one in measure_cost(where) if one.view == name) for name in ("shop_sales", "item_price")
    )
    assert (sales.sampled, price.sampled) == (3, 2)
    for one in (sales, price):
        assert 20 * one.sampled < one.online_bytes < 1000 * one.sampled
        assert one.online_ms > 0
    one_feature = measure_cost(where, ["shop_sales"])[0].features[0]
    assert 0 < one_feature.online_bytes < sales.online_bytes


def test_cost_of_a_store_that_does_not_say(location, dynamodb_online, capsys):  # noqa: F811
    where = Location(location.repo, location.home, {"online_store": dynamodb_online})
    materialized(where)
    [one] = measure_cost(where, ["shop_sales"])
    assert one.online_bytes is None
    assert "does not say how many bytes" in one.unknown
    assert one.online_ms > 0


def test_cost_of_what_was_never_computed(tmp_path):
    location = governed(tmp_path)
    apply_repo(location, ledger_of(location))
    for one in measure_cost(location):
        assert (one.days, one.rows, one.offline_bytes, one.online_ms) == (0, 0, 0, None)
        assert "no entity to read" in one.unknown
    with pytest.raises(ConfigError, match="no stored feature view 'nothing'"):
        measure_cost(location, ["nothing"])
