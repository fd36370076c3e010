"""A CSV that cannot be read is refused with the line where it begins, and without its values."""

from __future__ import annotations

import gzip
from pathlib import Path

import duckdb
import pytest

from airflow_mlops.engine.data.reading import Reader
from airflow_mlops.exceptions import DataError
from airflow_mlops.formats import OPTIONS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('at,x\n2024-01-01,1\n2024-01-02,"SECRET\n2024-01-03,3\n', "a quote that opens in line 3 is never closed"),
        ("at,x\n2024-01-01,1\n2024-01-02,SECRET,2\n", "line 3 has 3 fields, the header has 2"),
        ("at,x\n2024-01-01,1\n2024-01-02\n", "line 3 has 1 fields, the header has 2"),
        ('at,x\n2024-01-01,"a\nb"\nSECRET\n', "line 4 has 1 fields, the header has 2"),
        ("at,x\n2024-01-01,1\n2024-01-02,SECRET\n", "line 3, column 'x' cannot be read as the other lines"),
        ("at,x\n2024-01-01,caf\xe9SECRET\n", "it is no UTF-8, in line 2"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_the_line_is_told(tmp_path: Path, content: str, words: str, name: str) -> None:
    file = tmp_path / name
    encoded = content.encode("latin-1")
    file.write_bytes(gzip.compress(encoded) if name.endswith(".gz") else encoded)
    with pytest.raises(DataError, match="A file cannot be read") as refused, Reader(types={"x": "BIGINT"}) as reader:
        list(reader.batches(file))
    assert words in refused.value.detail
    assert "SECRET" not in str(refused.value)


def test_a_line_far_down_is_told_too(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("at,x\n" + "2024-01-01,1\n" * 60_000 + "2024-01-01,2,SECRET\n")
    with pytest.raises(DataError) as refused, Reader() as reader:
        list(reader.batches(file))
    assert "line 60002 has 3 fields, the header has 2" in refused.value.detail
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"x": 1}\n{"x": "SECRET" 2\n', "a line is no JSON, or cut off, in line "),
        ('{"x": 1}\n{"x": 1, "SECRET": 1, "SECRET": 2}\n', "a name is there twice, in line 2"),
    ],
)
def test_a_json_that_cannot_be_read_is_told_without_its_values(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    with pytest.raises(DataError) as refused, Reader() as reader:
        list(reader.batches(file))
    assert words in refused.value.detail
    assert "SECRET" not in str(refused.value)


def test_types_may_be_an_option_of_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("at,x\n2024-01-01,007\n")
    with Reader({"types": {"x": "VARCHAR"}}) as reader:
        assert [table["x"].to_pylist() for table in reader.batches(file)] == [["007"]]
    with Reader({"types": {"x": "BIGINT"}}) as reader:
        assert [table["x"].to_pylist() for table in reader.batches(file)] == [[7]]


def test_a_thousands_separator_is_an_option(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('at,x\n2024-01-01,"1,234"\n')
    with pytest.raises(DataError) as refused, Reader(types={"x": "BIGINT"}) as reader:
        list(reader.batches(file))
    assert "Partitions(reader={'thousands': ','})" in refused.value.hint
    with Reader({"thousands": ","}) as reader:
        [table] = reader.batches(file)
    assert table["x"].to_pylist() == [1234]


def test_the_options_that_are_known_when_a_file_is_parsed_are_those_of_duckdb() -> None:
    for kind, function in (("csv", "read_csv"), ("json", "read_json")):
        asked = "SELECT DISTINCT unnest(parameters) FROM duckdb_functions() WHERE function_name = ?"
        names = {name for (name,) in duckdb.execute(asked, [function]).fetchall()}
        assert OPTIONS[kind] == names - {"path", "paths"}
