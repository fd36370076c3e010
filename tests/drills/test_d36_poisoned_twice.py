"""D36: training was poisoned twice, then it is stopped. What serves must be the last good version, not the latest.

Both poisoned versions passed their gates: their test split was poisoned too. What tells them apart is the data that
they know.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.evaluation.approvals import choose_version
from airflow_mlops.engine.features.governance.consumers import KIND, ModelFeatures
from airflow_mlops.engine.halts import halt, halted
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.going_back import version_to_go_back_to
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import DataError
from tests.drills.test_d55_rolled_back_and_retrained import passed
from tests.serving_fixtures import (
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
)

pytestmark = pytest.mark.drill

POISONED_ON = date(2026, 1, 20)
GOOD, BAD = 0.2, 0.9


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, mean in {"1": GOOD, "2": GOOD + 0.1, "3": BAD, "4": BAD - 0.1}.items():
        make_saved_model(folder / name, mean)
    return folder


@pytest.fixture
def rollout(server, tmp_path, models, request) -> Iterator[Rollout]:
    """Two good versions served, then the two that were trained since the data is poisoned."""
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        for version in (1, 2, 3, 4):
            publish(models / str(version), rollout.base, version)
            cut = datetime(2026, 1, 18, tzinfo=UTC) + timedelta(days=version)  # 19, 20: good; 21, 22: poisoned
            read = ModelFeatures(
                model=rollout.model, version=version, service="s", project="p", definition="d", code={}, features=(),
                snapshot=f"s{version}", label_cut=cut,
            )  # fmt: skip
            rollout.ledger.record(KIND, rollout.model, read.model_dump(mode="json"), key=str(version))
            passed(rollout.ledger, rollout.model, version)
            put_into_service(rollout, version)
        yield rollout


def answers_like(rollout: Rollout, models: Path, version: int) -> bool:
    golden = Golden.read(models / str(version))
    return served(rollout, golden.inputs) == pytest.approx(golden.outputs["probability"], abs=1e-6)


def test_fault_guard_on(rollout: Rollout, models: Path):
    """Stopped, and back to what was trained before that day, although a poisoned version served well in between."""
    assert answers_like(rollout, models, 4)
    halt(rollout.ledger, rollout.model, "ann", "poisoned labels")
    to = version_to_go_back_to(rollout.ledger, rollout.server, rollout.model, None, "", str(POISONED_ON))
    state = rollout.rollback("ann", "poisoned since the 20th", to)
    assert state.stable == 2
    assert answers_like(rollout, models, 2)
    assert state.rolled_back == (3, 4), "neither comes back by the next rollback"
    passed(rollout.ledger, rollout.model, 5)  # a training that was under way is judged all the same
    assert choose_version(rollout.ledger, rollout.model, rollout.server).version is None
    assert halted(rollout.ledger, rollout.model) is not None
    assert answers_like(rollout, models, 2)


def test_fault_guard_off(rollout: Rollout, models: Path):
    """Stopped alone, the latest goes on answering; and the version before it is poisoned too."""
    halt(rollout.ledger, rollout.model, "ann", "poisoned labels")
    assert answers_like(rollout, models, 4)
    rollout.rollback("ann", "answers too high")
    assert answers_like(rollout, models, 3)


def test_no_fault_nothing_is_older_than_all_data(rollout: Rollout, models: Path):
    asked = (rollout.ledger, rollout.server, rollout.model, None, "")
    assert version_to_go_back_to(*asked, "2026-02-01") == 4, "the newest where all is well: it serves already"
    with pytest.raises(DataError, match="No kept version of"):
        version_to_go_back_to(*asked, "2026-01-01")
    assert answers_like(rollout, models, 4)
