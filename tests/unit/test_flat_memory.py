"""Reading a Parquet file batch by batch takes the memory of some row groups, and not of all."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DAY = datetime(2024, 1, 1, tzinfo=UTC)
GROUPS, ROWS = 40, 10_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 40 row groups, 32 MB in all."""
    path = tmp_path_factory.mktemp("large") / "a.parquet"
    rng = np.random.default_rng(0)
    schema = pa.schema([("at", pa.timestamp("us", "UTC")), *((f"c{n}", pa.float64()) for n in range(9))])
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for _ in range(GROUPS):
            columns = [pa.array([DAY] * ROWS, schema.field("at").type), *(rng.random(ROWS) for _ in range(9))]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS)
    return path


READ = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
import pyarrow as pa
from airflow_mlops.engine.data.parquet import inspect
from airflow_mlops.engine.data.profiles import profile_files
from airflow_mlops.engine.prediction.rows import rows_of_entities

file, day = Path(sys.argv[1]), datetime(2024, 1, 1, tzinfo=UTC)
inspect([file], "at", (day, day + timedelta(days=1)), file.parent)
profile_files([file], dataset="d", key="2024-01-01", revision="r")
with rows_of_entities(file) as rows:
    assert sum(table.num_rows for _, table in rows.batches(["at", "c1"], 8192, lambda *_: False)) == int(sys.argv[2])
print(pa.default_memory_pool().max_memory())
"""


def test_it_does_not_grow_with_the_file(file: Path):
    assert file.stat().st_size > 30_000_000
    command = [sys.executable, "-c", READ, str(file), str(GROUPS * ROWS)]
    most = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    assert int(most) < 20_000_000
