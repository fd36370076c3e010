"""What people land is made to fit, or refused in words: formats, types, times, and files that are broken."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from airflow_mlops.engine.data.checks import Column, SchemaContract
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.staging import stage
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.layout import Layout
from airflow_mlops.partitioning import Partitioning

KEY = "2013-01-15"
AT = datetime(2013, 1, 15, 10, tzinfo=UTC)
UTC_TIME = pa.timestamp("us", "UTC")


def at(rows: int = 1, kind: pa.DataType = UTC_TIME) -> pa.Array:
    return pa.array([AT if kind.tz else AT.replace(tzinfo=None)] * rows, kind)


@pytest.fixture
def land(tmp_path):
    """Write a file of the day."""

    def land(content: pa.Table | str | bytes, name: str | None = None, key: str = KEY) -> None:
        folder = tmp_path / "lake" / key
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name or f"part-{len(list(folder.iterdir()))}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            (orc.write_table if path.suffix == ".orc" else pq.write_table)(content, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return land


@pytest.fixture
def staged(tmp_path):
    """Stage the day; return its rows."""

    def staged(key: str = KEY, **more) -> pa.Table:
        arguments = {"event_time": "at", "layout": Layout("{key}/**/*"), **more}
        staged.last = stage(tmp_path / "lake", key, tmp_path / "staged" / key, **arguments)
        return pa.concat_tables(pq.read_table(file, partitioning=None) for file in parquet_files(Path(staged.last.uri)))

    return staged


def test_files_that_fit_stay_where_they_are(land, staged, tmp_path):
    land(pa.table({"at": at(), "x": [1]}))
    land(pa.table({"at": at(), "x": [2]}))
    assert staged(layout=Layout())["x"].to_pylist() == [1, 2]
    assert staged.last.uri == str(tmp_path / "lake" / KEY)
    assert not (tmp_path / "staged").exists()


# --- types ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (pa.nulls(1), pa.array([1.5]), pa.float64()),
        (pa.array([1]), pa.array([1.5]), pa.float64()),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
        (pa.array([1.5], pa.float32()), pa.array([2.5]), pa.float64()),
        (pa.array(["a"]), pa.array(["b"]).dictionary_encode(), pa.string()),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.string()),
        (pa.array([AT], UTC_TIME), pa.array([AT], pa.timestamp("ns", "UTC")), UTC_TIME),
        (pa.array([Decimal("1.5")]), pa.array([Decimal("22.75")]), pa.decimal128(4, 2)),
        (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2]], pa.list_(pa.int64())), pa.list_(pa.int64())),
    ],
)
def test_what_holds_the_other_without_loss_becomes_both(land, staged, one, other, together):
    land(pa.table({"at": at(), "x": one}))
    land(pa.table({"x": other, "at": at()}))
    rows = staged()
    assert rows.schema.names == ["at", "x"]
    assert rows.schema.field("x").type == together
    assert len(rows) == 2


def test_a_column_that_one_file_lacks_is_null_there(land, staged):
    land(pa.table({"at": at(), "x": [1], "y": ["a"]}))
    land(pa.table({"at": at(), "x": [2]}))
    assert staged()["y"].to_pylist() == ["a", None]


@pytest.mark.parametrize(("one", "other"), [([1], ["a"]), ([True], [1]), (["a"], [1.5])])
def test_what_is_no_kind_of_the_other_is_refused(land, staged, one, other):
    land(pa.table({"at": at(), "x": one}))
    land(pa.table({"at": at(), "x": other}))
    with pytest.raises(DataError, match=r"Column 'x' is \S+ in one file and \S+ in another"):
        staged()


def test_a_whole_number_too_large_for_a_float_is_refused_with_its_row(land, staged):
    land(pa.table({"at": at(2), "x": [2**53 + 1, 5], "id": ["r1", "r2"]}))
    land(pa.table({"at": at(), "x": [1.5], "id": ["r3"]}))
    with pytest.raises(DataError, match=r"1 of 2 values of column 'x' would not fit into double(.|\n)*id: r1"):
        staged(row_id="id")


@pytest.mark.parametrize(
    ("values", "wanted", "fits"),
    [
        ([3.0, None], "int64", [3, None]),
        ([3.5, 4.0, 1.25], "int64", "2 of 3 values"),
        ([3, 4], "double", [3.0, 4.0]),
        ([300, 4], "int8", "1 of 2 values"),
        (["7", "8"], "int64", "one is no kind of the other"),
        ([7, 8], "string", "one is no kind of the other"),
        ([None, None], "string", [None, None]),
        ([Decimal("3.00"), Decimal("4.00")], "int64", [3, 4]),
    ],
)
def test_a_contract_says_what_columns_become(land, staged, values, wanted, fits):
    land(pa.table({"at": at(len(values)), "x": values}))
    contract = SchemaContract(version="1", columns={"x": Column(wanted)})
    if isinstance(fits, str):
        with pytest.raises(DataError, match=fits):
            staged(contract=contract)
    else:
        assert staged(contract=contract)["x"].to_pylist() == fits
        assert str(staged(contract=contract).schema.field("x").type) == wanted


@pytest.mark.parametrize(("policy", "names"), [("keep", ["at", "x", "new"]), ("drop", ["at", "x"]), ("refuse", None)])
def test_new_columns_are_kept_dropped_or_refused(land, staged, policy, names):
    land(pa.table({"at": at(), "x": [1.0], "new": [1]}))
    columns = {"at": Column("timestamp[us, tz=UTC]"), "x": Column("int64")}
    contract = SchemaContract(version="1", columns=columns, new_columns=policy)
    if names is None:
        with pytest.raises(DataError, match="'new': no such column is in the contract"):
            staged(contract=contract)
    else:
        assert staged(contract=contract).schema.names == names


def test_a_type_that_arrow_does_not_have_is_a_mistake_in_the_contract(land, staged):
    land(pa.table({"at": at(), "x": [1]}))
    with pytest.raises(ConfigError, match="column 'x' a type 'strng' that Arrow does not have"):
        staged(contract=SchemaContract(version="1", columns={"x": Column("strng")}))


# --- times ------------------------------------------------------------------------------------------------


def test_what_spark_writes_is_landed(land, staged, tmp_path):
    """INT96 event times, without a zone."""
    folder = tmp_path / "lake" / KEY
    folder.mkdir(parents=True)
    naive = pa.table({"at": at(2, pa.timestamp("ns")), "x": [1, 2]})
    pq.write_table(naive, folder / "part-00000.snappy.parquet", use_deprecated_int96_timestamps=True)
    rows = staged()
    assert rows["at"].to_pylist() == [AT, AT]
    assert "2 times of 'at' had no zone: taken as UTC" in staged.last.notes


def test_times_of_a_zone_that_the_clock_skips_or_has_twice_are_counted(land, staged):
    cut = Partitioning("daily", "America/New_York")
    times = [datetime(2013, 11, 3, 1, 30), datetime(2013, 11, 3, 5)]  # noqa: DTZ001
    land(pa.table({"at": pa.array(times, pa.timestamp("us"))}), key="2013-11-03")
    rows = staged("2013-11-03", partitioning=cut)
    assert rows["at"].to_pylist() == [
        datetime(2013, 11, 3, 5, 30, tzinfo=UTC), datetime(2013, 11, 3, 10, tzinfo=UTC)
    ]  # fmt: skip
    assert any("1 of them the clock skips or has twice" in note for note in staged.last.notes)


def test_times_that_are_too_fine_are_refused_with_how_to_cut_them(land, staged):
    land(pa.table({"at": pa.array([int(AT.timestamp()) * 10**9 + 1], pa.timestamp("ns", "UTC"))}))
    with pytest.raises(
        DataError, match=r'1 of 1 values of column .at.(.|\n)*in pandas by rows\["at"\]\.dt\.floor\("us"\)'
    ):
        staged()


def test_times_that_are_texts_are_read_and_what_is_none_is_refused(land, staged):
    land(pa.table({"at": ["2013-01-15T10:00:00Z"]}))
    assert staged()["at"].to_pylist() == [AT]
    land(pa.table({"at": ["noon"]}))
    with pytest.raises(DataError, match=r"column 'at' would not fit into timestamp(.|\n)*as ISO 8601"):
        staged()


def test_a_wrong_event_time_is_named(land, staged):
    land(pa.table({"at": at()}))
    with pytest.raises(DataError, match=r"no event-time column 'att'\. Did you mean 'at'"):
        staged(event_time="att")


# --- formats ----------------------------------------------------------------------------------------------

CSV = "id,at,x,zip\nr1,2013-01-15 10:00:00,3,007\nr2,2013-01-15 10:00:00,4.5,12\n"
ROWS = [
    {"id": "r1", "at": AT, "x": 3.0, "zip": "007"},
    {"id": "r2", "at": AT, "x": 4.5, "zip": "12"},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV.encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.CSV", CSV.encode()),
        ("a.tsv", CSV.replace(",", "\t").encode()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.csv", CSV.replace("\n", "\r\n").encode()),
    ],
)
def test_csv(land, staged, name, content):
    land(content, name)
    assert staged().to_pylist() == ROWS


def test_json_lines_and_orc(land, staged):
    lines = "".join(json.dumps({**row, "at": row["at"].isoformat()}) + "\n" for row in ROWS)
    land(lines, "a.jsonl")
    land(
        pa.Table.from_pylist(
            ROWS, pa.schema([("id", pa.string()), ("at", UTC_TIME), ("x", pa.float64()), ("zip", pa.string())])
        ),
        "b.orc",
    )
    assert staged().to_pylist() == [*ROWS, *ROWS]


def test_objects_and_texts_in_one_column_of_json_stay_what_they_were(land, staged):
    said = ["plain", {"a": 1}, None]
    land("".join(json.dumps({"at": "2013-01-15T10:00:00Z", "said": one}) + "\n" for one in said), "a.jsonl")
    assert staged()["said"].to_pylist() == ["plain", '{"a":1}', None]


def test_a_name_that_ends_in_a_number_is_no_second_one(land, staged):
    land("at,x,x_1\n2013-01-15,1,2\n", "a.csv")
    assert staged().column_names == ["at", "x", "x_1"]


def test_the_first_row_of_a_file_without_header_is_not_told(land, staged):
    land("2013-01-15,jane.doe@example.com,4\n2013-01-15,ann@example.com,4\n", "a.csv")
    with pytest.raises(DataError, match=r"perhaps no header(.|\n)*'header': False") as failed:
        staged()
    assert "jane" not in str(failed.value)
    land("2013-01-15,PLANTED4711,c1\n2013-01-15,PLANTED4712,c1\n", "a.csv")
    with pytest.raises(DataError, match="3 columns, and perhaps no header") as failed:
        staged()
    assert "PLANTED" not in str(failed.value)
    land("2013-01-15,jane.doe@example.com,4\n2013-01-15,ann@example.com,4\n", "a.csv")
    rows = staged(options={"header": False, "names": ["at", "who", "x"]})
    assert rows["who"].to_pylist() == ["jane.doe@example.com", "ann@example.com"]


def test_a_contract_types_what_csv_cannot_say(land, staged):
    land("id,at,x\n1,2013-01-15,3\n2,2013-01-15,\n", "a.csv")
    contract = SchemaContract(version="1", columns={"id": Column("string"), "x": Column("int32")})
    rows = staged(contract=contract)
    assert rows["id"].to_pylist() == ["1", "2"]
    assert rows.schema.field("x").type == pa.int32()
    assert rows["at"].to_pylist() == [datetime(2013, 1, 15, tzinfo=UTC)] * 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b'at,x\n2013-01-15,"3\n2013-01-15,4\n', r"A file cannot be read(.|\n)*fix: "),
        ("a.csv", "at,x\n2013-01-15,Müller\n".encode("latin-1"), r"'encoding': 'latin-1'"),
        ("a.csv", b"at,x\n2013-01-15,a\nat,x\n2013-01-15,b\n", "header is there again(.|\n)*1 times"),
        ("a.csv", b"", "A file is empty"),
        ("a.csv", b"at,price,price\n2013-01-15,1,2\n", r"A column is there twice: price\."),
        ("a.csv", b"at,Price,price\n2013-01-15,1,2\n", r"twice: price\.(.|\n)*upper and lower case"),
        ("a.csv", b"at;x\n2013-01-15;a\n", r"no event-time column 'at'(.|\n)*'delim': ';'"),
        ("a.jsonl", b'{"at": "2013-01-15T10:00:00Z"}\n{"at": "2013', "A file cannot be read"),
        ("a.parquet", b"PAR1 and no more", "A Parquet file cannot be read"),
        ("a.orc", b"ORC and no more", "cannot be read"),
        ("a.xlsx", b"PK", r"There are no files of 2013-01-15(.|\n)*'a.xlsx'"),
    ],
)
def test_what_is_broken_is_said(land, staged, name, content, says):
    land(content, name)
    with pytest.raises(DataError, match=says):
        staged()


@pytest.mark.parametrize(
    ("content", "options", "value"),
    [
        ("at,x\n2013-01-15,Müller\n".encode("latin-1"), {"encoding": "latin-1"}, "Müller"),
        (b"at;x\n2013-01-15;1,5\n", {"delim": ";", "decimal_separator": ","}, 1.5),
        (b'at,x\n2013-01-15,"1,234.5"\n', {"thousands": ","}, 1234.5),
    ],
)
def test_options_of_the_reader(land, staged, content, options, value):
    land(content, "a.csv")
    assert staged(options=options)["x"].to_pylist() == [value]


def test_an_option_that_the_reader_does_not_have_is_refused(land, staged):
    land(CSV, "a.csv")
    with pytest.raises(ConfigError, match="cannot be read with these options"):
        staged(options={"delimm": ";"})


def test_no_date_is_guessed_and_no_number_rounded(land, staged):
    land("at,d,n,big,code\n2013-01-15,01/02/2013,12345678901234567.25,123456789012345678,1.5\n"
         "2013-01-15,03/02/2013,1.5,5,2\n", "a.csv")  # fmt: skip
    rows = staged()
    assert rows["d"].to_pylist() == ["01/02/2013", "03/02/2013"]
    assert rows["n"].to_pylist() == ["12345678901234567.25", "1.5"]
    assert rows["big"].to_pylist() == [123456789012345678, 5]
    assert rows["code"].to_pylist() == [1.5, 2.0]


@pytest.mark.parametrize("times", ["2013-01-15T10:00:00Z", "2013-01-15 05:00:00-05:00", "2013-01-15T10:00:00.000"])
def test_times_as_iso_8601_writes_them(land, staged, times):
    land(f"at,known\n{times},{times}\n", "a.csv")
    assert staged()["at"].to_pylist() == staged()["known"].to_pylist() == [AT]


def test_a_header_of_another_width_is_no_row_less(land, staged):
    land("order;at;x\n1;2013-01-15 10:00:00;1,5\n2;2013-01-15 11:00:00;2,5\n", "a.csv")
    with pytest.raises(DataError, match=r"cannot be read|no event-time column 'at'"):
        staged()


def test_the_hour_that_comes_twice_may_share_a_folder(tmp_path):
    cut, layout = Partitioning("hourly", "America/New_York"), Layout("dt={start:%Y-%m-%d}/hr={hour:02}/*.parquet")
    folder = tmp_path / "lake" / "dt=2013-11-03" / "hr=01"
    folder.mkdir(parents=True)
    times = [datetime(2013, 11, 3, 5, 30, tzinfo=UTC), datetime(2013, 11, 3, 6, 30, tzinfo=UTC)]
    pq.write_table(pa.table({"at": pa.array(times, UTC_TIME), "x": [1, 2]}), folder / "a.parquet")
    found = {}
    for key in ("2013-11-03T0500Z", "2013-11-03T0600Z"):
        done = stage(tmp_path / "lake", key, tmp_path / key, event_time="at", layout=layout, partitioning=cut)
        found[key] = pq.read_table(Path(done.uri) / "part-0.parquet", partitioning=None)["x"].to_pylist()
        assert "1 rows of these files belong to a partition beside it" in done.notes
    assert found == {"2013-11-03T0500Z": [1], "2013-11-03T0600Z": [2]}
    with pytest.raises(ConfigError, match="is the same for"):
        Layout("dt={start:%Y-%m-%d}/*.parquet").of("2013-11-03T0700Z", cut)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_date_is_the_midnight_of_its_zone(tmp_path, kind):
    cut = Partitioning("weekly", "America/New_York")
    folder = tmp_path / "lake" / "2024-10-28"
    folder.mkdir(parents=True)
    if kind == "parquet":
        pq.write_table(pa.table({"from": [date(2024, 10, 28)], "x": [1]}), folder / "a.parquet")
    else:
        text = "from,x\n2024-10-28,1\n" if kind == "csv" else '{"from": "2024-10-28", "x": 1}\n'
        (folder / f"a.{kind}").write_text(text)
    done = stage(tmp_path / "lake", "2024-10-28", tmp_path / "staged", event_time="from", partitioning=cut)
    [at] = pq.read_table(Path(done.uri) / "part-0.parquet", partitioning=None)["from"].to_pylist()
    assert at == cut.interval("2024-10-28")[0]


@pytest.mark.parametrize(("zone", "rows"), [("America/New_York", 24), ("Asia/Kolkata", 24)])
def test_hours_become_a_day_of_a_zone(tmp_path, zone, rows):
    """Where a day begins in the middle of an hour, that hour belongs to two of them."""
    cut, hourly = Partitioning("daily", zone), Partitioning("hourly")
    for n, key in enumerate(hourly.keys(datetime(2013, 1, 13, tzinfo=UTC), datetime(2013, 1, 17, tzinfo=UTC))):
        folder = tmp_path / "lake" / key
        folder.mkdir(parents=True)
        begin, _ = hourly.interval(key)
        times = [begin + timedelta(minutes=minutes) for minutes in (10, 40)]
        pq.write_table(pa.table({"at": pa.array(times, UTC_TIME), "n": [n, n]}), folder / "a.parquet")
    asked = {"event_time": "at", "layout": Layout("{key}/*.parquet", hourly), "partitioning": cut}
    days = [stage(tmp_path / "lake", f"2013-01-{day}", tmp_path / f"{day}", **asked) for day in (14, 15)]
    found = [pq.read_table(Path(day.uri) / "part-0.parquet", partitioning=None) for day in days]
    assert [table.num_rows for table in found] == [2 * rows, 2 * rows]
    begin, end = cut.interval("2013-01-14")
    assert begin <= min(found[0]["at"].to_pylist()) <= max(found[0]["at"].to_pylist()) < end
    assert any("belong to a partition beside it" in note for note in days[0].notes) == (zone == "Asia/Kolkata")
    with pytest.raises(DataError, match="There are no files of 2013-01-17T0"):
        stage(tmp_path / "lake", "2013-01-17", tmp_path / "17", **asked)


def test_hundreds_of_small_files(land, staged):
    for n in range(300):
        land(f"at,x\n2013-01-15,{n}\n", f"{n:04}.csv")
    assert sorted(staged()["x"].to_pylist()) == list(range(300))


# --- layouts ----------------------------------------------------------------------------------------------


def test_columns_that_only_the_path_has_become_columns(tmp_path, staged):
    for region in ("eu", "us"):
        folder = tmp_path / "lake" / f"dt={KEY}" / f"region={region}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"at": at(), "x": [1]}), folder / "a.parquet")
    rows = staged(layout=Layout("dt={key}/*/*.parquet"))
    assert sorted(rows["region"].to_pylist()) == ["eu", "us"]
    assert "dt" not in rows.schema.names, "the layout knows it as the time"


def test_what_is_staged_is_sealed_with_a_receipt_of_what_landed(land, staged, tmp_path):
    land(CSV, "a.csv")
    staged()
    store, folder = PartitionStore.under(tmp_path / "home"), Path(staged.last.uri)
    first = store.seal(
        "orders", KEY, folder, event_time="at", batch_hash=batch_hash(parquet_files(folder)), suite_hash="s"
    )  # fmt: skip
    assert (first.receipt.uri, first.receipt.files, first.receipt.bytes) == (
        f"{tmp_path}/lake/{KEY}/**/*", 1, len(CSV)
    )  # fmt: skip
    staged()
    again = store.seal("orders", KEY, folder, event_time="at", batch_hash=None, suite_hash="s")
    assert again.revision == first.revision, "the same bytes give the same revision"


# --- days that are read together --------------------------------------------------------------------------


def test_structs_that_differ_are_not_read_together(tmp_path):
    store = PartitionStore.under(tmp_path)
    for day, value in ((14, {"a": 1}), (15, {"b": "x"})):
        folder = tmp_path / "lake" / str(day)
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"at": pa.array([AT.replace(day=day)], UTC_TIME), "x": [value]}), folder / "a.parquet")
        store.seal("orders", f"2013-01-{day}", folder, event_time="at", batch_hash=None, suite_hash=None)
    with pytest.raises(DataError, match="does not have the columns to read"):
        store.read(store.list("orders", None, None))


@pytest.mark.parametrize(
    ("monday", "tuesday", "both"),
    [
        ([1], [1.5], [1.0, 1.5]),
        (pa.nulls(1), [1.5], [None, 1.5]),
        (["a"], pa.array(["b"]).dictionary_encode(), ["a", "b"]),
        (["a"], pa.array(["b"], pa.large_string()), ["a", "b"]),
        (pa.array([1], pa.int32()), [2**40], [1, 2**40]),
    ],
)
def test_days_with_types_of_which_one_holds_the_other_are_read_together(tmp_path, monday, tuesday, both):
    store = PartitionStore.under(tmp_path)
    for day, values in ((14, monday), (15, tuesday)):
        folder = tmp_path / "lake" / str(day)
        folder.mkdir(parents=True)
        moment = pa.array([AT.replace(day=day)], UTC_TIME)
        more = {} if day == 14 else {"new": [7]}
        pq.write_table(pa.table({"at": moment, "x": values, **more}), folder / "a.parquet")
        store.seal("orders", f"2013-01-{day}", folder, event_time="at", batch_hash=None, suite_hash=None)
    days = store.list("orders", None, None)
    assert store.read(days)["x"].to_pylist() == both
    assert store.read(days)["new"].to_pylist() == [None, 7], "a new column is null before it was there"
    assert store.read(days, ["x"])["x"].to_pylist() == both
    with pytest.raises(DataError, match="no 'new'"):
        store.read(days, ["new"])
