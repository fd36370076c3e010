"""Assets are to Airflow what its own are."""

from __future__ import annotations

import copy
import pickle

from airflow.sdk import Asset

from airflow_mlops.assets import features_asset


def test_an_asset_is_the_one_of_the_same_name_also_in_a_set():
    ours = features_asset("m", owner="risk")
    theirs = Asset(name=ours.name, uri=ours.uri, group=ours.group, extra=ours.extra)
    assert {ours, theirs, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))} == {theirs}
    assert features_asset("other") not in {ours}
