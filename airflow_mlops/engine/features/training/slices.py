"""Rows that one training set leaves out, by what a column says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.exceptions import ConfigError


class LeftOut:
    """Leaves out the rows of some slices, and knows which of them it has met.

    :param slices: Column → values, as text.
    """

    def __init__(self, slices: Mapping[str, Sequence[str]]) -> None:
        self.slices = {column: list(values) for column, values in slices.items()}
        self._met: set[tuple[str, str]] = set()

    def rest(self, rows: pa.Table) -> pa.Table:
        """Return the rows of no such slice."""
        for column, values in self.slices.items():
            said = rows[column].cast(pa.string())
            theirs = pc.is_in(said, value_set=pa.array(values, pa.string()))
            self._met |= {(column, value) for value in pc.unique(said.filter(theirs)).to_pylist()}
            rows = rows.filter(pc.invert(theirs))
        return rows

    def check_met(self, where: str) -> None:
        """Refuse a slice of which there was no row: it is mistyped, and its rows would be trained on.

        :param where: Of what, for the error.
        :raises ConfigError: naming it.
        """
        wanted = [(column, value) for column, values in self.slices.items() for value in values]
        if missed := [f"{column}={value}" for column, value in wanted if (column, value) not in self._met]:
            raise ConfigError(
                f"There is no row with {missed[0]} that could be left out.",
                detail=f"{where}; no row has: {', '.join(missed)}",
                hint="Correct the value as the data writes it, or leave it out of the form.",
            )
