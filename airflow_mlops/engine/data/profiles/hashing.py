"""64-bit hashes of values that are the same in every process, on every machine, in every version."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Hashes = npt.NDArray[np.uint64]


def mix(bits: Hashes) -> Hashes:
    """Scramble 64-bit patterns one to one: the finaliser of SplitMix64 (Steele, Lea, Flood 2014, variant 13)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def hash_numbers(values: npt.NDArray[np.number]) -> Hashes:
    """Hash whole numbers by their 64 bits, others as doubles; 0 and -0 are one value."""
    if values.dtype.kind == "f":
        return mix((values.astype(np.float64) + 0.0).view(np.uint64))
    return mix(values.astype(np.int64).view(np.uint64))


def hash_strings(values: pa.Array) -> Hashes:
    """Hash texts by SipHash with the fixed key of pandas."""
    return pd.util.hash_array(values.to_numpy(zero_copy_only=False).astype(object), categorize=False)
