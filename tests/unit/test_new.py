"""`airflow-mlops new` on what cannot become a project: said in words, and nothing is left behind."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from airflow_mlops import cli
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.project.plan import check_name

OPTIONS = ["--time", "at", "--entity", "id", "--label", "bought"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("buyers", None)


def write(days: int = 30, **changes: object) -> None:
    """Write visits to a CSV file: some columns changed, or left out where they are None."""
    with Path("visits.csv").open("w", newline="") as file:
        for n in range(days * 10):
            row = {
                "id": n,
                "at": (datetime(2024, 1, 1) + timedelta(hours=2.4 * n)).isoformat(),  # noqa: DTZ001
                "visitor": f"v{n % 20}",
                "pages": (n * 7919) % 31 / 2,
                "bought": n * 104729 % 3 == 0,
                **{name: change(n) if callable(change) else change for name, change in changes.items()},
            }
            row = {name: value for name, value in row.items() if name not in changes or changes[name] is not None}
            writer = csv.DictWriter(file, row)
            if not n:
                writer.writeheader()
            writer.writerow(row)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, see that it refuses and that it left nothing, and return what it said."""
    before = sorted(Path().iterdir())
    assert cli.main(["new", "buyers", *arguments]) == 1
    assert sorted(Path().iterdir()) == before
    said = capsys.readouterr().err
    assert "fix:" in said
    return said


def test_a_small_file_becomes_a_project(here, capsys):
    write()
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "300 rows from 2024-01-01 to 2024-01-30" in said
    assert "No column says when it is known. Taken as: 7 days later." in said
    assert sorted(str(file) for file in Path("buyers").rglob("*.py")) == [
        "buyers/dags/buyers.py", "buyers/dags/buyers_data.py", "buyers/dags/buyers_model.py",
        "buyers/feature_repo/buyers_features.py", "buyers/feature_repo/definitions.py", "buyers/tests/test_buyers.py",
    ]  # fmt: skip
    assert "Nothing says when a label became known" in Path("buyers/feature_repo/buyers_features.py").read_text()
    assert cli.main(["explain", "buyers/dags/buyers.py:buyers"]) == 0


def test_the_day_that_has_not_ended_is_not_loaded(here, capsys):
    begin = datetime.now(UTC) - timedelta(days=30)
    write(days=31, at=lambda n: (begin + timedelta(hours=2.4 * n)).isoformat())
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    readme = Path("buyers/README.md").read_text()
    [to] = re.findall(r"--to (\S+)", readme)
    [as_of] = re.findall(r'"as_of": "(.+?)"', readme)
    assert date.fromisoformat(to) + timedelta(days=1) == datetime.fromisoformat(as_of).date()
    assert datetime.fromisoformat(as_of) <= datetime.now(UTC)
    assert "end=date" not in Path("buyers/dags/buyers.py").read_text()


def test_a_last_day_that_is_cut_off_is_left_out(here, capsys):
    write(days=29)
    with Path("visits.csv").open("a", newline="") as file:
        file.write("290,2024-01-30T00:10:00,v1,2.5,True\r\n")
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "it has 1 of 10 rows that are usual: the project ends with 2024-01-29." in said
    assert "end=date(2024, 1, 29)" in Path("buyers/dags/buyers.py").read_text()
    assert '"as_of": "2024-01-30T00:00:00Z"' in Path("buyers/README.md").read_text()


def test_trees_in_place_of_a_network(here, capsys):
    write()
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS, "--model", "boosted"]) == 0
    assert 'fit="buyers_model:fit"' in Path("buyers/dags/buyers.py").read_text()
    assert "HistGradientBoostingClassifier(" in Path("buyers/dags/buyers_model.py").read_text()
    assert cli.main(["explain", "buyers/dags/buyers.py:buyers"]) == 0


def test_a_table_in_which_nothing_repeats_has_a_history_of_all_rows(here, capsys):
    write(visitor=None)
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    assert "History: of all together" in capsys.readouterr().out
    assert "No column repeats its values" in Path("buyers/README.md").read_text()
    assert "entities=[]," in Path("buyers/feature_repo/definitions.py").read_text()
    assert "airflow-mlops ask buyers pages=" in Path("buyers/README.md").read_text()
    assert cli.main(["explain", "buyers/dags/buyers.py:buyers"]) == 0


def test_a_table_of_nothing_but_a_label(here, capsys):
    write(visitor=None, pages=None)
    assert "No column says anything" in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_an_empty_folder(here, capsys):
    Path("visits").mkdir()
    Path("visits/readme.pdf").write_text("nothing")
    said = refused(capsys, "--from", "visits", *OPTIONS)
    assert "There are no rows there." in said
    assert "1 file, and none .parquet" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("visits.xlsx", 'pd.read_excel("visits.xlsx").to_parquet("visits.parquet")'),
        ("visits.feather", "Save it as Parquet or CSV"),
        ("visits", "such as visits.csv"),
    ],
)
def test_a_file_of_a_format_that_is_not_read(here, capsys, name: str, said: str):
    Path(name).write_bytes(b"PK")
    assert said in refused(capsys, "--from", name, *OPTIONS)


def test_nothing_of_that_name(here, capsys):
    assert "The data is not there." in refused(capsys, "--from", "visits", *OPTIONS)


@pytest.mark.parametrize("options", [OPTIONS, []])
def test_no_rows_below_a_header(here, capsys, options: list[str]):
    Path("visits.csv").write_text("id,at,bought\n")
    assert "There are no rows." in refused(capsys, "--from", "visits.csv", *options)


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl", "json", "tsv"])
def test_other_formats(here, capsys, kind: str):
    write()
    rows = pd.read_csv("visits.csv", parse_dates=["at"])
    if kind in ("jsonl", "json"):
        rows.to_json(f"visits.{kind}", orient="records", lines=kind == "jsonl", date_format="iso")
    else:
        rows.to_csv(f"visits.{kind}", index=False, sep="\t" if kind == "tsv" else ",")
    source = ["--from", f"visits.{kind}", *OPTIONS]
    if kind == "json":  # one array
        source += ["--reader", refused(capsys, *source).split("--reader '")[1].split("'")[0]]
    assert cli.main(["new", "buyers", *source]) == 0
    assert "300 rows from 2024-01-01 to 2024-01-30" in capsys.readouterr().out


def test_another_encoding(here, capsys):
    write(visitor=lambda n: f"Müller {n % 20}")
    Path("visits.csv").write_bytes(Path("visits.csv").read_text().encode("latin-1"))
    said = refused(capsys, "--from", "visits.csv", *OPTIONS)
    reader = said.split("--reader '")[1].split("'")[0]
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS, "--reader", reader]) == 0


def test_columns_that_the_landing_and_features_have_too(here, capsys):
    write(dt="x", visitor=None, event_timestamp=lambda n: f"v{n % 20}")
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    assert "'event_timestamp' is called 'event_timestamp_2'" in capsys.readouterr().out
    assert len(list(Path("buyers/landing/visits").iterdir())) == 30


def test_rows_of_the_future_only(here, capsys):
    begin = datetime.now(UTC) + timedelta(days=2)
    write(at=lambda n: (begin + timedelta(hours=2.4 * n)).isoformat())
    assert "All rows are of the future." in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_mistyped_years_are_left_out_or_asked_about(here, capsys):
    usual = datetime(2024, 1, 1, tzinfo=UTC)
    mistyped = {5: usual.replace(year=2205), 6: usual.replace(year=1970)}
    write(at=lambda n: mistyped.get(n, usual + timedelta(hours=2.4 * n)).isoformat())
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    said = capsys.readouterr().out
    assert "300 rows from 1970-01-01 to 2024-01-30" in said
    assert "Nearly all of them are from after 2024-01-01: are the times before right?" in said
    assert "left out: 1 row of the future" in said


def test_a_table_without_a_time(here, capsys):
    write(at=None)
    said = refused(capsys, "--from", "visits.csv", "--entity", "id", "--label", "bought")
    assert "No column can be the time." in said
    assert "docs/tutorial-operators.md" in said


def test_a_time_that_is_a_text(here, capsys):
    write(at=lambda n: f"{n % 28 + 1:02}/01/2024 10:00")
    said = refused(capsys, "--from", "visits.csv", *OPTIONS)
    assert "The time 'at' is a text, and no time." in said
    assert "it looks like '99/99/9999 99:99'" in said


def test_a_time_that_some_rows_have_wrong(here, capsys):
    write(at=lambda n: "soon" if n < 3 else (datetime(2024, 1, 1) + timedelta(hours=2.4 * n)).isoformat())  # noqa: DTZ001
    said = refused(capsys, "--from", "visits.csv", *OPTIONS)
    assert "3 of 300 values of the time 'at' are no times." in said
    assert "such as 'aaaa'" in said


def test_the_hint_for_a_time_that_is_a_text_works(here, capsys):
    write(at=lambda n: f"{n % 28 + 1:02}/01/2024 10:00")
    said = refused(capsys, "--from", "visits.csv", *OPTIONS)
    reader = said.split("--reader '")[1].split("'")[0]
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS, "--reader", reader]) == 0
    assert "from 2024-01-01 to 2024-01-28" in capsys.readouterr().out


def test_a_header_cannot_become_code(here, capsys):
    write()
    rows = pd.read_csv("visits.csv", parse_dates=["at"]).assign(**{"x`\nimport os  # |": "the same"})
    Path("visits").mkdir()
    for day, some in rows.groupby(rows["at"].dt.date):
        some.to_parquet(f"visits/{day}.parquet")
    assert cli.main(["new", "buyers", "--from", "visits", *OPTIONS]) == 0
    assert "The rows are taken where they lie." in capsys.readouterr().out
    for file in Path("buyers").rglob("*.py"):
        assert "\nimport os  # |" not in file.read_text()
    assert "# - x' import os # /: the same in every row" in Path("buyers/dags/buyers_data.py").read_text()


def test_a_folder_that_cannot_be_written(here, capsys, monkeypatch):
    write()
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "The project cannot be written." in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_the_folder_that_one_is_in(here, capsys):
    write()
    assert cli.main(["new", "buyers", "--from", ".", *OPTIONS]) == 0


@pytest.mark.parametrize("in_place", [True, False])
def test_floats_of_many_digits_are_floats(here, capsys, in_place):
    write(pages=lambda n: repr((n + 1) / 7) if n else "1e-05")
    rows = pd.read_csv("visits.csv", dtype=str)
    if in_place:
        Path("visits").mkdir()
        for day, some in rows.groupby(rows["at"].str[:10]):
            some.to_csv(f"visits/{day}.csv", index=False)
    source = "visits" if in_place else "visits.csv"
    assert cli.main(["new", "buyers", "--from", source, *OPTIONS]) == 0
    assert re.search(r"^pages +double .*input$", capsys.readouterr().out, re.MULTILINE)
    said = 'reader={"types": {"pages": "DOUBLE"}},' in Path("buyers/dags/buyers.py").read_text()
    assert said == in_place
    assert cli.main(["explain", "buyers/dags/buyers.py:buyers"]) == 0


@pytest.mark.parametrize("options", [OPTIONS, []])
def test_a_csv_with_semicolons(here, capsys, options: list[str]):
    write()
    Path("visits.csv").write_text(Path("visits.csv").read_text().replace(",", ";"))
    said = refused(capsys, "--from", "visits.csv", *options)
    reader = said.split("--reader '")[1].split("'")[0]
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS, "--reader", reader]) == 0


def test_a_time_that_no_row_has(here, capsys):
    write(at=lambda n: "")
    assert "fix:" in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_times_that_some_rows_lack(here, capsys):
    write(at=lambda n: "" if n < 30 else (datetime(2024, 1, 1) + timedelta(hours=2.4 * n)).isoformat())  # noqa: DTZ001
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    assert "left out: 30 rows without a time" in capsys.readouterr().out


def test_one_class_only(here, capsys):
    write(bought=True)
    assert "one value only" in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_too_few_days(here, capsys):
    write(days=12)
    said = refused(capsys, "--from", "visits.csv", *OPTIONS)
    assert "There are too few days" in said
    assert "that leaves 5 days" in said


def test_a_label_that_has_a_copy(here, capsys):
    write(sold=lambda n: "yes" if n * 104729 % 3 == 0 else "no")
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    assert "a copy of the label" in capsys.readouterr().out
    assert "# - sold: a copy of the label" in Path("buyers/dags/buyers_data.py").read_text()
    assert '"sold"' not in Path("buyers/dags/buyers.py").read_text()


def test_four_hundred_columns(here, capsys):
    write(**{f"x{i}": lambda n, i=i: n * (i + 2) % 17 / 3 for i in range(400)})
    assert cli.main(["new", "buyers", "--from", "visits.csv", *OPTIONS]) == 0
    assert "and 365 more" in capsys.readouterr().out
    assert Path("buyers/dags/buyers.py").read_text().count('"x') <= 40


def test_a_folder_of_that_name_is_left_alone(here, capsys):
    write()
    Path("buyers").mkdir()
    assert "nothing in it is overwritten" in refused(capsys, "--from", "visits.csv", *OPTIONS)


def test_without_a_terminal_it_says_what_to_name(here, capsys):
    write()
    said = refused(capsys, "--from", "visits.csv", "--time", "at", "--entity", "id")
    assert "Which column is the label?" in said
    assert "--label bought" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shop returns", "Such as 'shop_returns'"),
        ("class", "it is a word of Python"),
        ("2nd", "Such as 'c_2nd'"),
        ("json", "There is a Python package 'json' already."),
        ("../up", "letters, digits and '_' only"),
    ],
)
def test_names_that_no_project_can_have(name: str, said: str):
    with pytest.raises(ConfigError, match="fix:") as error:
        check_name(name)
    assert said in str(error.value)


@pytest.mark.parametrize("source", ["postgres://shop_db", "postgres://me:secret@db/orders"])
def test_an_address_of_a_database_that_is_no_connection(here, capsys, source: str):
    said = refused(capsys, "--from", source, *OPTIONS)
    assert "CONNECTION is the id of an Airflow connection" in said
    assert "secret" not in said
