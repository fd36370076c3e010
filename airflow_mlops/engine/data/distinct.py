"""How many values of a column repeat another: told by small hashes, and counted only where two of these are alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def count_repeated(column: pa.ChunkedArray) -> int:
    """Return how many rows have no value of their own: those that repeat one, and those without any.

    Counting the values of a long column takes several times its memory; that is spent only where two hashes are alike.
    """
    if not column.null_count:
        hashes = [np.empty(0, dtype=np.uint64)]
        hashes += [
            pd.util.hash_array(chunk.to_numpy(zero_copy_only=False), categorize=False) for chunk in column.chunks
        ]
        found = np.sort(np.concatenate(hashes))
        if not (found[1:] == found[:-1]).any():
            return 0
    return len(column) - int(pc.count_distinct(column, mode="only_valid").as_py())
