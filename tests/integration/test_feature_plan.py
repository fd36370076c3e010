"""What applying definitions changes, said before it does; and what is refused. Real Feast registries."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.features.governance import apply
from airflow_mlops.engine.features.governance import plan as plans
from airflow_mlops.engine.features.governance.apply import apply_planned, apply_repo, ensure_applied, last_applied
from airflow_mlops.engine.features.governance.plan import plan
from airflow_mlops.engine.features.materialization.watermarks import Watermark, pointer_name, watermarks
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import describe
from airflow_mlops.engine.features.project.store import feast_errors, open_store
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.operators.feast import FeastApplyOperator
from tests.governed_features import edit, governed, ledger_of, register, serve

NEW_VIEW = """
item_price_v2 = FeatureView(
    name="item_price_v2", entities=[item], ttl=timedelta(days=1), source=source("item_price_v2"),
    schema=[Field(name="price", dtype=Float64), Field(name="rebate", dtype=Float64)], tags=OWNED,
)
shop_v2 = FeatureService(name="shop_v2", features=[shop_sales, item_price_v2], tags={**OWNED, "model": "turnover"})
"""


@pytest.fixture
def location(tmp_path) -> Location:
    return governed(tmp_path)


@pytest.fixture
def ledger(location) -> Ledger:
    return ledger_of(location)


def changes(location, ledger) -> list[str]:
    return [str(change) for change in plan(location, ledger).changes]


# --- the plan -----------------------------------------------------------------------------------------------


def test_where_nothing_changes_no_version_is_read(location, ledger, monkeypatch):
    """Each run of any features applies: reading all versions that there ever were would cost ever more."""
    apply_repo(location, ledger)
    monkeypatch.setattr(plans, "model_versions", lambda *_: pytest.fail("all versions of all models were read"))
    assert plan(location, ledger).changes == ()


def test_a_plan_touches_nothing(location, ledger):
    found = plan(location, ledger)
    assert found.before is None
    assert found.counts == {"additive": 6}
    assert [str(change) for change in found.changes] == [
        "+ entity item [additive]",
        "+ entity shop [additive]",
        "+ feature view item_price: 1 feature [additive]",
        "+ feature view shop_sales: 2 features [additive]",
        "+ on-demand view basket_worth: 1 feature [additive]",
        "+ feature service shop_v1: 2 features [additive]",
    ]
    assert not (location.home / "feast").exists()
    assert last_applied(location, ledger) is None
    assert ledger.facts("feature_repo") == []


def test_a_changed_tag_of_an_on_demand_view_reaches_the_registry(location, ledger):
    apply_repo(location, ledger)
    edit(location, 'mode="python", tags=OWNED', 'mode="python", tags={**OWNED, "team": "checkout"}')
    assert [change.effect for change in plan(location, ledger).changes] == ["cosmetic"]
    apply_repo(location, ledger)
    assert plan(location, ledger).changes == (), "it is not planned again for ever"
    assert open_store(location).get_on_demand_feature_view("basket_worth").tags["team"] == "checkout"


def test_what_is_planned_is_what_is_registered_then(location, ledger):
    planned = plan(location, ledger).definitions
    applied = apply_repo(location, ledger)
    assert applied == planned
    assert applied == describe(open_store(location), applied.hash)
    assert plan(location, ledger).changes == ()
    assert ensure_applied(location, ledger) == applied
    assert len(ledger.facts("feature_repo")) == 1


def test_a_plan_needs_no_registry(location, ledger):
    """Only the ledger and the definitions: it also works while the registry is down."""
    apply_repo(location, ledger)
    (location.home / "feast" / "registry.db").write_bytes(b"not a database")
    edit(location, "timedelta(days=3)", "timedelta(days=2)")
    assert changes(location, ledger) == [
        "~ feature view shop_sales: ttl 259200 s → 172800 s [breaking; services: shop_v1]"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'Field(name="visits", dtype=Int64)',
            'Field(name="visits", dtype=Int64), Field(name="returns", dtype=Int64)',
            ["+ feature shop_sales:returns: int64 [additive]"],
        ),
        (', Field(name="visits", dtype=Int64)', "", ["- feature shop_sales:visits [breaking]"]),
        (
            'Field(name="visits", dtype=Int64)',
            'Field(name="visits", dtype=Float64)',
            ["~ feature shop_sales:visits: type int64 → double [breaking]"],
        ),
        (
            'Field(name="sales", dtype=Float64)',
            'Field(name="sales", dtype=Int64)',
            [
                "~ feature shop_sales:sales: type double → int64 [breaking; services: shop_v1]",
                "~ feature service shop_v1: features their types or order [breaking; services: shop_v1]",
            ],
        ),
        (
            'shop_sales", entities=[shop]',
            'shop_sales", entities=[item]',
            ["~ feature view shop_sales: keys shop string → item int64 [breaking; services: shop_v1]"],
        ),
        (
            "n * p if",
            "n + p if",
            ["~ on-demand view basket_worth: code"],
        ),
        (
            "n * p if p is not None",
            "n * p if (p is not None)",
            [],
        ),
        (
            'features=[shop_sales[["sales"]], basket_worth]',
            "features=[shop_sales, basket_worth]",
            ["~ feature service shop_v1: features +visits [breaking; services: shop_v1]"],
        ),
        (
            'features=[shop_sales[["sales"]], basket_worth]',
            'features=[basket_worth, shop_sales[["sales"]]]',
            ["~ feature service shop_v1: features their types or order [breaking; services: shop_v1]"],
        ),
        (
            "tags={**OWNED},  # tags of shop_sales",
            'tags={"owner": "sales@example.com"},',
            ["~ feature view shop_sales: tag owner shops@example.com → sales@example.com [cosmetic]"],
        ),
        (
            'Field(name="visits", dtype=Int64)',
            'Field(name="visits", dtype=Int64, tags={"status": "deprecated"})',
            ["~ feature shop_sales:visits: tag status ∅ → deprecated [cosmetic]"],
        ),
    ],
)
def test_each_change_is_said_and_classified(location, ledger, old, new, expected):
    apply_repo(location, ledger)
    edit(location, old, new)
    found = changes(location, ledger)
    assert len(found) == len(expected)
    assert all(said.startswith(start) for said, start in zip(found, expected, strict=True)), found


# --- what serves --------------------------------------------------------------------------------------------

BREAKING = [
    ("timedelta(days=3)", "timedelta(days=2)"),
    ("timedelta(days=7)", "timedelta(days=2)"),  # of a view behind the on-demand view
    ("n * p if", "n + p if"),
    ('Field(name="sales", dtype=Float64)', 'Field(name="sales", dtype=Int64)'),
    ('shop_sales", entities=[shop]', 'shop_sales", entities=[item]'),
    ('features=[shop_sales[["sales"]], basket_worth]', "features=[shop_sales, basket_worth]"),
    ('name="shop_v1"', 'name="shop_v9"'),
]


@pytest.mark.parametrize(("old", "new"), BREAKING)
@pytest.mark.parametrize("stands", ["stable", "previous"])
def test_what_a_served_version_reads_is_not_changed(location, ledger, old, new, stands):
    before = apply_repo(location, ledger)
    register(ledger, 3)
    register(ledger, 4)
    serve(ledger, **{"stable": 4, "previous": 3} if stands == "previous" else {"stable": 3})
    edit(location, old, new)
    with pytest.raises(ConfigError) as error:
        apply_repo(location, ledger)
    assert "nothing was applied" in error.value.headline
    assert f"shop_v1 is read by turnover 3 (tf_serving_default: {stands})" in error.value.detail
    assert "shop_v2" in error.value.hint
    assert last_applied(location, ledger) == before
    assert describe(open_store(location), before.hash) == before


@pytest.mark.parametrize(("old", "new"), BREAKING)
def test_what_nobody_serves_can_be_changed(location, ledger, old, new):
    apply_repo(location, ledger)
    register(ledger, 3)
    register(ledger, 9, model="other")
    edit(location, old, new)
    applied, said = apply_planned(location, ledger)
    assert said.counts["breaking"] >= 1
    assert said.refused == ()
    assert {str(model) for change in said.changes for model in change.models} == {"turnover 3", "other 9"}
    assert applied == describe(open_store(location), applied.hash)


def test_a_new_version_beside_the_old_one_passes(location, ledger):
    apply_repo(location, ledger)
    register(ledger, 3)
    serve(ledger, 3)
    definition = last_applied(location, ledger).definition_hash("shop_v1")
    (location.repo / "shops.py").write_text((location.repo / "shops.py").read_text() + NEW_VIEW)
    edit(location, "dtype=Int64)],  # shop_sales", 'dtype=Int64), Field(name="more", dtype=Int64)],')
    applied, said = apply_planned(location, ledger)
    assert said.counts == {"additive": 3}
    assert applied.definition_hash("shop_v1") == definition
    assert sorted(applied.services) == ["shop_v1", "shop_v2"]


def test_what_was_broken_behind_our_back_can_be_brought_back(location, ledger):
    """With the guard passed by (nothing served then), the definition that the served version knows is let in."""
    apply_repo(location, ledger)
    register(ledger, 3)
    edit(location, "n * p if", "n + p if")
    apply_repo(location, ledger)
    serve(ledger, 3)
    edit(location, "n + p if", "n - p if")
    with pytest.raises(ConfigError, match="turnover 3"):
        apply_repo(location, ledger)
    edit(location, "n - p if", "n * p if")
    assert apply_planned(location, ledger)[1].refused == ()


def test_a_change_elsewhere_is_not_held_up_by_what_is_broken_already(location, ledger):
    apply_repo(location, ledger)
    register(ledger, 3)
    edit(location, "n * p if", "n + p if")
    apply_repo(location, ledger)
    serve(ledger, 3)
    edit(location, ', Field(name="visits", dtype=Int64)', "")
    apply_repo(location, ledger)
    assert list(last_applied(location, ledger).views["shop_sales"].features) == ["sales"]


def test_rules_are_checked_before_anything_is_registered(location, ledger):
    edit(location, "tags={**OWNED},  # tags of item_price", 'tags={**OWNED, "status": "blocked"},')
    with pytest.raises(ConfigError, match="feature view 'item_price', which is blocked"):
        apply_repo(location, ledger)
    assert last_applied(location, ledger) is None
    assert not (location.home / "feast" / "registry.db").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name="item_price"', 'name="item-price"', "feature view 'item-price': Its name cannot be"),
        ('name="item_price"', 'name="a/../b"', r"feature view 'a/\.\./b': Its name cannot be"),
        ('name="item_price"', 'name="pä ir"', "feature view 'pä ir': Its name cannot be"),
        ('name="shop_v1"', 'name="shop v1"', "feature service 'shop v1': Its name cannot be"),
        ('Field(name="visits"', 'Field(name="event_timestamp"', "name of a column of time"),
        (
            'Field(name="price", dtype=Float64)',
            'Field(name="price", dtype=Float64), Field(name="sales", dtype=Float64)',
            None,  # which the service does not take
        ),
        (
            'features=[shop_sales[["sales"]], basket_worth]',
            'features=[shop_sales[["sales"]], shop_sales.with_name("again")]',
            "It has two features 'sales': of 'shop_sales' and 'shop_sales'",
        ),
        (
            'features=[shop_sales[["sales"]], basket_worth]',
            "features=[]",
            "feature service 'shop_v1': It has no features",
        ),
        (
            '[Field(name="price", dtype=Float64)]',
            "[]",
            "feature view 'item_price' has no features: give it a schema",
        ),
    ],
)
def test_names_are_checked_before_anything_is_registered(location, ledger, old, new, said):
    edit(location, old, new)
    edit(
        location, "OWNED = ", 'from airflow_mlops import FeatureRules\nRULES = FeatureRules(doubles="block")\nOWNED = '
    )
    if said is None:
        assert plan(location, ledger).findings == ()
        return
    with pytest.raises(ConfigError, match=said):
        apply_repo(location, ledger)
    assert last_applied(location, ledger) is None
    assert not (location.home / "feast" / "registry.db").exists()


def test_a_name_that_is_not_registered_asks_for_an_apply(location):
    with pytest.raises(ConfigError, match="FeatureViewNotFoundException") as error, feast_errors():
        open_store(location).get_feature_view("nowhere")
    assert "run FeastApplyOperator, or any other apply" in error.value.hint


def test_a_lint_of_two_views_with_one_feature_names_both(location, ledger):
    edit(location, 'Field(name="price", dtype', 'Field(name="sales", dtype=Float64), Field(name="price", dtype')
    edit(location, "basket_worth],", "basket_worth, item_price],")
    [finding] = plan(location, ledger).findings
    assert "two features 'sales': of 'shop_sales' and 'item_price'" in str(finding)
    assert "item_price[[...]]" in finding.fix


# --- what is kept, what is lost -------------------------------------------------------------------------------


def test_materialisation_intervals_survive(tmp_path):
    location = governed(tmp_path, days=2)
    ledger = ledger_of(location)
    apply_repo(location, ledger)
    store = open_store(location)
    start, end = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)
    store.materialize(start, end, feature_views=["shop_sales"])

    def online():
        read = open_store(location).get_online_features(["shop_sales:sales"], [{"shop": "birch"}])
        return read.to_dict()["sales"]

    before = online()
    assert before[0] is not None
    for old, new in (
        ("tags={**OWNED},  # tags of shop_sales", 'tags={**OWNED, "team": "a"},'),
        ('Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=Int64), Field(name="more", dtype=Int64)'),
        ("timedelta(days=3)", "timedelta(days=5)"),
    ):
        edit(location, old, new)
        apply_repo(location, ledger)
        assert open_store(location).get_feature_view("shop_sales").materialization_intervals == [(start, end)]
        assert online() == before


def marked(ledger: Ledger, view: str) -> Watermark:
    return watermarks(ledger, "shops", [view])[view]


@pytest.mark.parametrize(
    ("old", "new", "starts_anew"),
    [
        ('Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=Int64), Field(name="n", dtype=Int64)', True),
        ('Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=Float64)', True),
        ("timedelta(days=3)", "timedelta(days=5)", True),
        ('shop_sales", entities=[shop]', 'shop_sales", entities=[item]', True),
        ("timedelta(days=3)", "timedelta(days=2)", False),
        (', Field(name="visits", dtype=Int64)', "", False),
        ("tags={**OWNED},  # tags of shop_sales", 'tags={**OWNED, "team": "a"},', False),
        ("n * p if", "n + p if", False),
    ],
)
def test_views_whose_online_values_are_incomplete_are_materialised_anew(location, ledger, old, new, starts_anew):
    apply_repo(location, ledger)
    done = Watermark(until=datetime(2024, 3, 2, tzinfo=UTC), files={"2024-03-01": "f"}, code="c")
    for view in ("shop_sales", "item_price"):
        assert ledger.swap(pointer_name("shops", view), done.to_value(), None)
    edit(location, old, new)
    apply_repo(location, ledger)
    assert marked(ledger, "shop_sales") == (Watermark() if starts_anew else done)
    assert marked(ledger, "item_price") == done


def test_a_view_that_is_removed_and_comes_back_starts_anew(tmp_path):
    """Feast drops the online table of a removed view: an old watermark would leave it empty for ever."""
    location = governed(tmp_path, days=2)
    ledger = ledger_of(location)
    text = (location.repo / "shops.py").read_text()
    apply_repo(location, ledger)
    start, end = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)
    open_store(location).materialize(start, end, feature_views=["shop_sales"])
    assert ledger.swap(pointer_name("shops", "shop_sales"), Watermark(until=end).to_value(), None)
    without = text[: text.index("shop_sales = FeatureView(")] + text[text.index("item_price = FeatureView(") :]
    (location.repo / "shops.py").write_text(without.replace('shop_sales[["sales"]], ', ""))
    apply_repo(location, ledger)
    assert marked(ledger, "shop_sales") == Watermark()
    (location.repo / "shops.py").write_text(text)
    apply_repo(location, ledger)
    read = open_store(location).get_online_features(["shop_sales:sales"], [{"shop": "birch"}]).to_dict()
    assert read["sales"] == [None]
    assert marked(ledger, "shop_sales") == Watermark()


APPLY = """
import sys
from pathlib import Path

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import TransientError

repo, home, ledger = sys.argv[1:]
try:
    print(apply_repo(Location(Path(repo), Path(home)), Ledger(ledger)).hash)
except TransientError as error:
    print(error.headline)
"""


def test_of_two_that_apply_at_once_one_wins_or_both_in_turn(location, ledger, tmp_path):
    """Two installations, two homes, so that no lock of ours is between them: the ledger decides."""
    ledger.check()
    homes = [location.home, tmp_path / "other"]
    commands = [[sys.executable, "-c", APPLY, str(location.repo), str(home), ledger.url] for home in homes]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outcomes = [process.communicate(timeout=120)[0].strip() for process in running]
    won = [outcome for outcome in outcomes if "Somebody else applied" not in outcome]
    assert won
    assert last_applied(location, ledger).hash in won
    assert len(ledger.facts("feature_repo")) == len(won)


def test_who_is_overtaken_while_applying_is_told(location, ledger, monkeypatch):
    def overtaken(*arguments):
        repo, lost = apply_alone(*arguments)
        assert ledger.swap("feature_repo:shops", repo.model_dump(), ledger.pointer("feature_repo:shops"))
        return repo, lost

    apply_alone = apply._apply
    monkeypatch.setattr(apply, "_apply", overtaken)
    with pytest.raises(TransientError, match="Somebody else applied"):
        apply_repo(location, ledger)


def test_types_that_feast_does_not_translate(location, ledger):
    edit(location, "import Float64, Int64", "import Bytes, Float64, Int64")
    edit(location, 'Field(name="visits", dtype=Int64)', 'Field(name="visits", dtype=Bytes)')
    applied = apply_repo(location, ledger)
    assert applied.views["shop_sales"].features["visits"] == "binary"


# --- the operator -------------------------------------------------------------------------------------------


@pytest.fixture
def connections(location, monkeypatch):
    feast = {"conn_type": "feast", "host": str(location.repo)}
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps(feast))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{location.home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))


def run(location, **arguments):
    manifest = FeastApplyOperator(task_id="apply", home=str(location.home), **arguments).execute({})
    return json.loads(json.dumps(manifest))


def test_the_operator_shows_the_plan_and_applies(connections, location, ledger, caplog):
    planned = run(location, plan_only=True)
    assert planned["planned_only"] is True
    assert planned["effects"] == {"additive": 6}
    assert last_applied(location, ledger) is None
    caplog.clear()
    with caplog.at_level("INFO", "airflow_mlops"):
        applied = run(location)
    assert applied == {**planned, "planned_only": False}
    assert "+ feature service shop_v1: 2 features [additive]" in applied["changes"]
    assert "+ feature service shop_v1: 2 features [additive]" in caplog.text
    assert last_applied(location, ledger).hash == applied["hash"]
    assert run(location)["changes"] == []


@pytest.mark.parametrize("plan_only", [True, False])
def test_the_operator_refuses_in_words(connections, location, ledger, plan_only):
    run(location)
    register(ledger, 3)
    serve(ledger, 3)
    edit(location, "n * p if", "n + p if")
    with pytest.raises(AirflowFailException, match=r"shop_v1 is read by turnover 3(.|\n)*shop_v2"):
        run(location, plan_only=plan_only)


def test_definitions_that_do_not_load_are_refused_by_the_plan_too(connections, location):
    edit(location, "OWNED = {", "OWNED = {{")
    with pytest.raises(AirflowFailException, match="cannot be loaded"):
        run(location, plan_only=True)


def test_tasks_can_wait_for_a_pool():
    assert FeastApplyOperator(task_id="apply", pool="feast").pool == "feast"
