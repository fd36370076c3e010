"""D20: two numeric features are swapped on the serving path; the model is fine, and answers its golden requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from airflow.sdk.exceptions import AirflowFailException
from feast.protos.feast.types.Value_pb2 import Value

from airflow_mlops.contracts import ParityReport, VerdictStatus
from tests.feast_fixtures import ledger_of
from tests.parity_fixtures import bring_online, deliveries, midnight, parity, seal_orders, write_features
from tests.skew_fixtures import MODEL, World, world

pytestmark = pytest.mark.drill

MOVED = 0.02  # of a probability, mean over the orders


def swap(faulty: World) -> None:
    """Write rain where wind belongs, and wind where rain does."""
    rain, wind = faulty.online("weather", "rain"), faulty.online("weather", "wind")
    faulty.write(
        "weather",
        {city: {"rain": Value(double_val=wind[city]), "wind": Value(double_val=rain[city])} for city in rain},
    )


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, world(tmp_path_factory.mktemp("d20"), patch) as made:
        assert made.check()["status"] == "PASS", "before the fault"
        assert made.moved().max() < 1e-6
        swap(made)
        yield made


def test_fault_guard_on(faulty):
    before = faulty.rollout.deployment()
    with pytest.raises(AirflowFailException, match=r"not what the model was trained on: (rain, wind|wind, rain)\n"):
        faulty.check()
    assert faulty.rollout.deployment() == before
    assert before.stable == 1
    assert faulty.as_before()
    report = ParityReport.model_validate(ledger_of(faulty.location.home).facts("parity", MODEL)[0].payload)
    assert report.status is VerdictStatus.FAIL
    assert {one.feature for one in report.failed} == {"rain", "wind"}
    assert all(one.differing == one.compared > 50 for one in report.failed)


def test_fault_guard_off(faulty):
    """Nothing else objects: the version is loaded, verified and promoted, and callers get other answers."""
    faulty.promote()
    assert faulty.moved().mean() > MOVED


@pytest.mark.slow
def test_no_fault(tmp_path):
    """Days as they come: null keys, items without stock, a day computed again, a day without a materialisation."""
    location = deliveries(tmp_path, 1)
    for n in range(1, 11):
        seal_orders(location.home, n)
        write_features(location.home, n)
        if n == 6:
            write_features(location.home, 5)  # late data: the same rows once more
        if n != 4:
            bring_online(location, n + 1)
        report = parity(location, rows=60, seed=n)
        assert (report.status, report.reason) == (VerdictStatus.PASS, ""), midnight(n)
