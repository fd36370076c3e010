"""What is wrong with a CSV file that DuckDB cannot read: which line, and how. No value is told, for it is data."""

from __future__ import annotations

import bz2
import csv
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LINE = re.compile(r"CSV Error on Line: (\d+)")
_COLUMN = re.compile(r'converting column "([^"]+)"')
_OPEN = {".gz": gzip.open, ".bz2": bz2.open}


def fault(file: Path, said: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is wrong, and how to mend it; empty texts when it cannot be told.

    :param said: What DuckDB said of it.
    :param options: With which it was read.
    """
    if "unicode" in said.lower():
        line = _LINE.search(said)
        return f"it is no UTF-8{f', in line {line[1]}' if line else ''}", (
            "Say in which encoding it is: Partitions(reader={'encoding': 'latin-1'})."
        )
    if line := _LINE.search(said):
        column = _COLUMN.search(said)
        if column is None and (shape := _shape(file, options))[0]:
            return shape
        where = f"line {line[1]}" + (f", column {column[1]!r}" if column else "")
        return f"{where} cannot be read as the other lines", (
            "See that line. A thousands separator is Partitions(reader={'thousands': ','}), a decimal comma "
            "{'decimal_separator': ','}; a column that is no number there must not be one in the contract."
        )
    return _shape(file, options) if "sniff" in said else ("", "")


def _shape(file: Path, options: Mapping[str, Any]) -> tuple[str, str]:
    """Look for the first line that has other fields than the header, or for a quote that is never closed."""
    opener: Any = _OPEN.get(file.suffix, open)
    quote, delimiter = str(options.get("quote", '"')), str(options.get("delim", ","))
    try:
        with opener(file, "rt", newline="", encoding=str(options.get("encoding", "utf-8"))) as text:
            rows = csv.reader(text, delimiter=delimiter, quotechar=quote or None, strict=True)
            header, begun = len(next(rows, [])), 2
            for row in rows:
                if len(row) != header:
                    return f"line {begun} has {len(row)} fields, the header has {header}", (
                        "Let the upstream mend it, or say how it is written: Partitions(reader={'delim': ';'})."
                    )
                begun = rows.line_num + 1
    except csv.Error:
        return f"a quote that opens in line {begun} is never closed", (
            "The file is cut off, or quotes otherwise: Partitions(reader={'quote': \"'\"})."
        )
    except (OSError, UnicodeError, LookupError, TypeError):
        pass  # what DuckDB said is told
    return "", ""
