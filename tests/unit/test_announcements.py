"""What upstreams announce: kept once, the latest counts, and nothing that on-call cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mlops.engine.data.announcements import announce, announced
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_the_latest_announcement_of_a_dataset_counts(ledger):
    assert announced(ledger, "arrivals") is None
    announce(ledger, "arrivals", "degraded", "radar feed late", "ops")
    good = announce(ledger, "arrivals", "ok", "feed is back", "ops")
    announce(ledger, "weather", "degraded", "station down", "ops")
    assert announced(ledger, "arrivals") == good
    assert (good.dataset, good.state, good.reason, good.who) == ("arrivals", "ok", "feed is back", "ops")
    assert good.at == ledger.facts("announcement", "arrivals")[0].at


def test_the_same_again_is_the_same_announcement(ledger):
    first = announce(ledger, "arrivals", "degraded", "late", "ops")
    assert announce(ledger, "arrivals", "degraded", "late", "ops") == first
    assert len(ledger.facts("announcement", "arrivals")) == 1
    announce(ledger, "arrivals", "degraded", "late", "ana")
    announce(ledger, "arrivals", "degraded", "later still", "ana")
    announce(ledger, "arrivals", "degraded", "late", "ops")
    assert len(ledger.facts("announcement", "arrivals")) == 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"state": "degradd"}, "Did you mean 'degraded'"),
        ({"state": ""}, "states: degraded, ok"),
        ({"reason": "  "}, "lacks: reason"),
        ({"who": "", "reason": ""}, "lacks: reason, who"),
        ({"dataset": ""}, "lacks: dataset"),
        ({"reason": None, "who": 7}, "lacks: reason, who"),
        ({"state": None}, "states: degraded, ok"),
    ],
)
def test_what_nobody_could_act_on_is_refused_and_not_kept(ledger, changed, said):
    with pytest.raises(ConfigError, match=said):
        announce(ledger, **{"dataset": "arrivals", "state": "ok", "reason": "back", "who": "ops", **changed})
    assert ledger.facts("announcement") == []
