"""D21: the online store keeps whole numbers where training saw floats. Distributions are alike; values are not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflow.sdk.exceptions import AirflowFailException
from feast.protos.feast.types.Value_pb2 import Value

from airflow_mlops.contracts import ParityReport, VerdictStatus
from tests.feast_fixtures import ledger_of
from tests.parity_fixtures import bring_online, deliveries, parity, seal_orders, write_features
from tests.skew_fixtures import MODEL, World, spread, world

pytestmark = pytest.mark.drill

MOVED = 1e-4  # of a probability, at most over the orders: half a unit of turnover


def round_online(faulty: World) -> None:
    """Write turnover as a writer does that has it as a whole number."""
    values = {shop: value for shop, value in faulty.online("sales", "turnover").items() if value is not None}
    faulty.write("sales", {shop: {"turnover": Value(int64_val=round(value))} for shop, value in values.items()})


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, world(tmp_path_factory.mktemp("d21"), patch) as made:
        assert made.check()["status"] == "PASS", "before the fault"
        before = spread(made.online("sales", "turnover"))
        round_online(made)
        after = spread(made.online("sales", "turnover"))
        assert after == pytest.approx(before, rel=0.02), "no check of the distribution would see it"
        yield made


def test_fault_guard_on(faulty):
    before = faulty.rollout.deployment()
    with pytest.raises(AirflowFailException, match=r"trained on: turnover\n(.|\n)*of another type \(int\)"):
        faulty.check()
    assert faulty.rollout.deployment() == before
    assert before.stable == 1
    assert faulty.as_before()
    report = ParityReport.model_validate(ledger_of(faulty.location.home).facts("parity", MODEL)[0].payload)
    [found] = report.failed
    assert found.types == ("int",)
    assert found.wrong_type == found.compared > 50


def test_fault_guard_off(faulty):
    """The server takes whole numbers for floats, and answers."""
    faulty.promote()
    assert faulty.moved().max() > MOVED


def test_no_fault(tmp_path):
    """Floats that happen to be whole are floats: turnover and stock are whole now and then, visits always are."""
    location = deliveries(tmp_path, 1)
    for n in range(1, 8):
        seal_orders(location.home, n)
        write_features(location.home, n, whole=n % 2 == 0)
        bring_online(location, n + 1)
        report = parity(location, rows=60, seed=n)
        assert (report.status, report.reason) == (VerdictStatus.PASS, ""), n
        assert {one.wrong_type for one in report.features} == {0}
