"""What files of a feed may be, by their names, and the options of those that are read as text. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_mlops.exceptions import ConfigError, did_you_mean

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".orc": "orc",
}
COMPRESSED = (".gz", ".zst", ".bz2")

_BOTH = (
    "allow_empty auto_detect column_statistics columns compression date_format dateformat file_row_number filename "
    "hive_partitioning hive_types hive_types_autocast ignore_errors sample_size schema timestamp_format "
    "timestampformat union_by_name"
)
_CSV = (
    "all_varchar allow_quoted_nulls auto_type_candidates buffer_size column_names column_types comment "
    "decimal_separator delim delimiter dtypes encoding escape files_to_sniff force_not_null header max_line_size "
    "maximum_line_size names new_line normalize_names null null_padding nullstr parallel quote rejects_limit "
    "rejects_line_size_limit rejects_scan rejects_table sep separator skip store_rejects strict_mode thousands types"
)
_JSON = (
    "array convert_strings_to_integers field_appearance_threshold format geojson map_inference_threshold maximum_depth "
    "maximum_object_size maximum_sample_files records"
)
OPTIONS = {
    "csv": frozenset(f"{_BOTH} {_CSV}".split()),
    "json": frozenset(f"{_BOTH} {_JSON}".split()),
    "parquet": frozenset[str](),
    "orc": frozenset[str](),
}
"""Format → what DuckDB's ``read_csv`` and ``read_json`` take. The others take nothing."""


def format_of(name: str) -> str | None:
    """Return the format that a file's name says it has: ``parquet``, ``csv``, ``json`` or ``orc``; None for another."""
    plain = next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)
    return next((kind for end, kind in FORMATS.items() if plain.lower().endswith(end)), None)


def check_options(options: Mapping[str, Any], layout: str) -> None:
    """Refuse an option that the files of a feed do not have.

    :param layout: Where they lie; its end may say what they are.
    :raises ConfigError: naming the option that was probably meant.
    """
    kind = format_of(layout)
    known = OPTIONS[kind] if kind else frozenset().union(*OPTIONS.values())
    for name in options:
        if name in known:
            continue
        others = [one for one, names in OPTIONS.items() if name in names]
        what = f"{kind} files have" if kind else "Files have"
        raise ConfigError(
            f"{what} no option {name!r}.{did_you_mean(str(name), known)}",
            detail=f"Partitions(reader={{{name!r}: ...}}), layout={layout!r}",
            hint=f"It is one of {others[0]} files."
            if others
            else "Options are those of DuckDB's read_csv or read_json"
            + (f", and {kind} files have none." if kind and not known else "."),
        )
