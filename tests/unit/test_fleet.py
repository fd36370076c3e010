"""A pipeline for each member of a fleet: what they share, what is wrong with one, and which is the first."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException
from airflow.serialization.serialized_objects import DagSerialization

from airflow_mlops import Fleet, Retrain
from airflow_mlops.cli import main
from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.engine.training.source import hash_of, source_hash
from airflow_mlops.exceptions import ConfigError
from tests.unit.test_pipeline import pipeline

OWN = {
    "source": {"uri": "lake/{member}/orders", "dataset": "orders_{member}"},
    "label": {"source": {"uri": "lake/{member}/arrivals", "dataset": "arrivals_{member}"}},
    "features": {"name": "m_{member}_v1"},
}


def fleet(**changes) -> Fleet:
    given = {"base": pipeline(), "members": ["de", "it", "pl"], "each": OWN, **changes}
    return Fleet(**given)


def test_each_member_is_a_pipeline_of_its_own():
    made, faults = fleet(members={"de": {}, "it": {"window": "90d", "features": {"history": "2d"}}}).pipelines()
    assert not faults
    assert [one.model for one in made.values()] == ["m_de", "m_it"]
    assert [one.train.window for one in made.values()] == ["60d", "90d"]
    italian = made["it"]
    assert (italian.source.uri, italian.source.dataset) == ("lake/it/orders", "orders_it")
    assert italian.label_feed.dataset == "arrivals_it"
    assert (italian.features.name, italian.features.history) == ("m_it_v1", "2d"), "own changes join those of each"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: fleet(members=["de", "it", "de"]), "Member 'de' of fleet 'm' is there twice"),
        (lambda: fleet(members=[]), "has no members"),
        (lambda: fleet(members=["de", ""]), "A member of fleet 'm' has no name"),
        (lambda: fleet(members=["d-e"]), "'m_d-e' cannot be a name"),
        (lambda: fleet(members="de"), "Write members=['de']"),
        (lambda: fleet(members={"de": "90d"}), "members=['de', 'it']"),
        (lambda: fleet(first="ita"), "no member 'ita' to be the first. Did you mean 'it'?"),
        (lambda: fleet(members=["de"], first="de"), "nobody follows the first"),
        (lambda: fleet(member=["de"]), "unknown key 'member'. Did you mean 'members'?"),
    ],
)
def test_a_mistake_is_explained(build, says):
    with pytest.raises(ConfigError) as error:
        build()
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("changes", "wrong", "says"),
    [
        ({"members": {"de": {}, "it": {"widow": "9d"}, "pl": {}}}, ["it"], "Did you mean 'window'?"),
        ({"members": {"de": {}, "it": {"window": "3d"}, "pl": {}}}, ["it"], "leaves nothing to train on"),
        ({"members": {"de": {}, "it": {"model": "m_de"}, "pl": {}}}, ["it"], "name a model"),
        ({"each": {"source": {"uri": "lake/{member}/orders"}}}, ["it", "pl"], "different feeds of one name"),
        ({"each": {**OWN, "features": {"history": "2d"}}}, ["it", "pl"], "features of one service, 'm_v1', from"),
    ],
)
def test_what_is_wrong_with_a_member_is_said_of_it_alone(changes, wrong, says):
    made, faults = fleet(**changes).pipelines()
    assert list(faults) == wrong
    assert all(says in str(fault) for fault in faults.values())
    assert set(made) == {"de", "it", "pl"} - set(wrong)


FILE = """
from pathlib import Path
from tests.unit.test_fleet import OWN, fleet  # for Airflow: a DAG file
from airflow_mlops import Kubernetes, Retrain, Trainer
remote = {"launcher": Kubernetes(image="us/train:1")}  # it needs a bucket, which only building its DAG finds out
made = fleet(
    base=fleet().base.derive(retrain=Retrain(cron="@weekly")),
    members={"de": {}, "it": {"window": "3d"}, "pl": remote, "fr": {}},
    first="de",
)
globals().update(made.dags())
"""


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> DagBag:
    folder = tmp_path_factory.mktemp("dags")
    (folder / "shops.py").write_text(textwrap.dedent(FILE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__MLOPS__HOME", str(folder))
        return DagBag(dag_folder=str(folder / "shops.py"))


def test_a_member_whose_configuration_is_wrong_stops_no_other(bag: DagBag):
    assert bag.import_errors == {}, "it would stop all DAGs of the file"
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    whole = {name.rpartition(".")[2] for name in bag.dags if name.startswith("m_de.")}
    assert whole >= {"features", "train", "deploy", "runbook"}
    assert {name.rpartition(".")[2] for name in bag.dags if name.startswith("m_fr.")} == whole
    assert {name for name in bag.dags if name.startswith(("m_it.", "m_pl."))} == {
        "m_it.config_error",
        "m_pl.config_error",
    }, "also where building its DAGs is what fails, half-way"


def test_what_is_wrong_is_seen_in_airflow(bag: DagBag):
    dag = bag.dags["m_it.config_error"]
    assert "leaves nothing to train on" in dag.doc_md
    assert dag.description == "The window leaves nothing to train on."
    assert "Widen the window" in dag.doc_md
    assert dag.is_paused_upon_creation is False
    assert dag.tags >= {"mlops", "m_it"}
    with pytest.raises(AirflowFailException, match="The configuration of m_it is wrong: The window leaves nothing"):
        dag.task_dict["report"].execute({})
    assert "needs a home that it can reach" in bag.dags["m_pl.config_error"].doc_md
    [warnings] = bag.captured_warnings.values()
    assert any("m_it has no DAGs: The window leaves nothing to train on" in one for one in warnings)


def test_the_schedule_is_that_of_the_rollout(bag: DagBag):
    assert bag.dags["m_de.train"].timetable.can_be_scheduled is False
    assert bag.dags["m_fr.train"].timetable.can_be_scheduled is False
    rollout = bag.dags["m.rollout"]
    assert rollout.timetable.expression == "0 0 * * 0"
    assert set(rollout.task_dict) == {"first.train", "first.serves", "others.fr.train", "others.fr.serves"}, (
        "those whose configuration is wrong have nothing to train"
    )
    assert rollout.task_dict["first.train"].trigger_dag_id == "m_de.train"
    assert rollout.task_dict["others.fr.train"].upstream_task_ids == {"first.serves"}
    assert "First `m_de`; then `m_fr`." in rollout.doc_md


def test_a_command_may_be_of_a_member(tmp_path: Path):
    (tmp_path / "shops_of.py").write_text("from tests.unit.test_fleet import fleet\nfleet = fleet()\n")
    folder, found = load_pipeline(f"{tmp_path}/shops_of.py:fleet.it")
    assert (folder, found.model) == (tmp_path, "m_it")
    with pytest.raises(ConfigError, match="has no member 'ita'"):
        load_pipeline(f"{tmp_path}/shops_of.py:fleet.ita")
    with pytest.raises(ConfigError, match="leaves nothing to train on"):
        fleet(members={"de": {"window": "3d"}}).pipeline("de")


def test_a_fleet_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = """
from airflow_mlops import Retrain
from tests.unit.test_fleet import fleet
base = fleet().base.derive(retrain=Retrain(cron="@weekly"))
shops = fleet(base=base, members={"de": {}, "it": {"window": "3d"}, "pl": {}}, first="de")
"""
    (tmp_path / "shops_in_words.py").write_text(text)
    assert main(["explain", f"{tmp_path}/shops_in_words.py:shops"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "2 pipelines: m_de, m_pl." in told
    assert "m_it has no DAGs: The window leaves nothing to train on." in told
    assert "m.rollout starts at 12:00 AM, only on Sunday (UTC) and by hand: it trains m_de, and once" in told
    assert told.endswith("serves, m_pl.")
    assert main(["explain", f"{tmp_path}/shops_in_words.py:shops.de"]) == 0
    with pytest.raises(ConfigError, match="which of its members is meant"):
        load_pipeline(f"{tmp_path}/shops_in_words.py:shops")


def test_new_code_is_tried_by_the_first():
    """Those that follow look whether it was; the hash is that of the code that a training runs."""
    base = pipeline(retrain=Retrain(new_rows=10, cooldown="1d"))
    dags = fleet(base=base, members=["de", "it"], first="de").dags()
    watched = dags["m_it_retrain"].get_task("decide").watch
    assert watched["first"] == "m_de"
    folder = str(Path(__file__).parents[2] / "dags")
    code = {**watched["code"], "named": "flights.model:build"}
    assert hash_of(**code, code_path=folder) == source_hash("flights.model:build", folder) is not None
    assert watched["code"]["named"] == base.train.entrypoint
    assert "first" not in dags["m_de_retrain"].get_task("decide").watch
    alone = fleet(base=base, members=["de", "it"]).dags()
    assert "first" not in alone["m_it_retrain"].get_task("decide").watch


def test_without_a_first_each_has_its_own_schedule():
    made, _ = fleet(base=pipeline(retrain=Retrain(cron="@weekly"))).pipelines()
    assert {one.retrain.cron for one in made.values()} == {"@weekly"}
    dags = fleet(members=["de", "it"]).dags()
    assert not [name for name in dags if name.endswith("rollout")]
    assert Path(next(iter(dags.values())).fileloc)


def test_a_member_may_have_a_schedule_of_its_own():
    base = pipeline(retrain=Retrain(cron="@weekly"))
    made, _ = fleet(base=base, members={"de": {}, "it": {"retrain": {"cron": "@daily"}}}, first="de").pipelines()
    assert [one.retrain.cron for one in made.values()] == [None, "@daily"]
