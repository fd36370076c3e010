"""Revisions of one partition, how they differ, and the profile beside each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from tests.data_fixtures import KEY, landed, seal_folder, sealed, spoil


def test_revisions_come_in_the_order_in_which_they_were_written(home):
    store, folder = PartitionStore.under(home), landed(home / "lake")
    assert store.revisions("departures", KEY) == []
    made = [seal_folder(home, spoil(folder, lambda frame: frame.iloc[1:])) for _ in range(3)]
    assert store.revisions("departures", KEY) == made
    assert [store.get("departures", KEY, found.revision) for found in made] == made
    with pytest.raises(DataError, match=r"Revision 0123 .* is missing") as refused:
        store.get("departures", KEY, "0123")
    assert "never sealed here" in refused.value.detail


def test_diff_counts_what_changed(home):
    folder = landed(home / "lake")
    old = seal_folder(home, folder)

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.iloc[5:].assign(gate="A1").drop(columns="tailnum")
        frame.loc[frame.index[:3], "dep_delay"] += 1
        frame.loc[frame.index[3], "dep_delay"] = np.nan
        more = frame.iloc[:2].assign(flight_id=["new 1", "new 2"])
        return pd.concat([frame, more]).assign(flight=lambda f: f["flight"].astype("float64"))

    new = seal_folder(home, spoil_types(folder, change))
    found = PartitionStore.under(home).diff("departures", KEY, old.revision, new.revision)
    assert (found.rows_before, found.rows_after) == (old.rows, old.rows - 3)
    assert (found.columns_added, found.columns_removed) == (("gate",), ("tailnum",))
    assert found.columns_retyped == {"flight": ("int64", "double")}
    assert (found.files_added, found.files_removed) == (("departures.parquet",), ("departures.parquet",))
    assert found.rows_changed is None

    store = PartitionStore.under(home)
    found = store.diff("departures", KEY, old.revision, new.revision, unique=["flight_id"])
    assert (found.rows_added, found.rows_removed, found.rows_changed) == (2, 5, 4)
    back = store.diff("departures", KEY, new.revision, old.revision, unique=["flight_id"])
    assert (back.rows_added, back.rows_removed, back.rows_changed) == (5, 2, 4)
    nothing = store.diff("departures", KEY, old.revision, old.revision, unique=["flight_id"])
    assert (nothing.rows_added, nothing.rows_removed, nothing.rows_changed) == (0, 0, 0)
    with pytest.raises(ConfigError, match=r"Rows cannot be matched by 'flight_i'\. Did you mean 'flight_id'"):
        store.diff("departures", KEY, old.revision, new.revision, unique=["flight_i"])


def spoil_types(folder: Path, change) -> Path:
    """Like ``spoil``, for columns that change their type."""
    [file] = parquet_files(folder)
    schema, frame = pq.read_schema(file), change(pd.read_parquet(file))
    found = pa.Schema.from_pandas(frame, preserve_index=False)
    kept = [found.field(n) if n not in schema.names or n == "flight" else schema.field(n) for n in frame]
    pq.write_table(pa.Table.from_pandas(frame, pa.schema(kept), preserve_index=False), file)
    return folder


def test_a_profile_may_come_before_its_revision(home):
    store = PartitionStore.under(home)
    elsewhere = sealed(home / "elsewhere")
    profile = Profile(dataset="departures", revisions={KEY: elsewhere.revision}, rows=9, columns={})
    store.write_profile("departures", KEY, elsewhere.revision, profile)
    assert store.keys("departures") == []
    assert store.profile(sealed(home)) == profile
    other = seal_folder(home, spoil(landed(home / "lake"), lambda frame: frame.iloc[1:]))
    assert store.profile(other) is None


# --- with and without a ledger ----------------------------------------------------------------------------


@pytest.fixture
def ledger(home) -> Ledger:
    return Ledger(f"sqlite:///{home / 'ledger.db'}")


def seal_with(ledger: Ledger | None, home: Path, folder: Path) -> str:
    store = PartitionStore.under(home, ledger)
    sealed = store.seal("departures", KEY, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None)
    return sealed.revision


def replaced(ledger: Ledger) -> list[str | None]:
    """Return what the facts of the day say was replaced, oldest first."""
    return [fact.payload["replaces"] for fact in reversed(ledger.facts("partition", "departures", key=KEY))]


def test_late_data_replaces_what_was_sealed_before_there_was_a_ledger(home, ledger):
    folder = landed(home / "lake")
    first = seal_with(None, home, folder)
    late = seal_with(ledger, home, spoil(folder, lambda frame: frame.iloc[1:]))
    later = seal_with(ledger, home, spoil(folder, lambda frame: frame.iloc[1:]))
    assert replaced(ledger) == [first, late]
    assert PartitionStore.under(home).current("departures", KEY) == later


def test_the_same_bytes_with_a_ledger_replace_nothing(home, ledger):
    folder = landed(home / "lake")
    first = seal_with(None, home, folder)
    assert seal_with(ledger, home, folder) == first
    assert replaced(ledger) == [None]
    assert ledger.pointer(f"partition:departures:{KEY}").value["revision"] == first


def test_a_ledger_heals_a_broken_manifest_that_was_sealed_without_one(home, ledger):
    folder = landed(home / "lake")
    first = seal_with(None, home, folder)
    (home / "partitions" / "departures" / KEY / "current.json").write_text("{")
    assert seal_with(ledger, home, folder) == first == PartitionStore.under(home).current("departures", KEY)


def test_what_a_ledger_decided_is_not_sealed_without_it(home, ledger):
    folder = landed(home / "lake")
    first = seal_with(ledger, home, folder)
    with pytest.raises(ConfigError, match=r"A ledger decides .*; give it"):
        seal_with(None, home, spoil(folder, lambda frame: frame.iloc[1:]))
    assert PartitionStore.under(home).current("departures", KEY) == first
