"""The HTML report: what it says, what it never shows, and that it needs nothing but itself."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.engine.data.charts import categories, distribution, instant, number
from airflow_mlops.engine.data.profiles import merge, profile_table
from airflow_mlops.engine.data.report import render

VOID = {"meta", "br"}


def outcome(expectation="expect_x", severity="block", success=False, **more):
    return ExpectationOutcome(expectation=expectation, column=None, severity=severity, success=success, **more)


def result(*outcomes, batch="departures 2013-01-05"):
    return ValidationResult(
        suite="departures",
        suite_hash="abc123",
        suite_version="7",
        batch=batch,
        batch_hash="def456",
        rows=1000,
        outcomes=outcomes,
        engine="duckdb",
    )


def profiled(columns, key="2013-01-05"):
    return profile_table(pa.table(columns), dataset="departures", key=key, revision="r")


class Page(HTMLParser):
    """Collects text and tags, and fails on tags that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([outcome(success=True)], "PASS"),
        ([outcome(success=True), outcome(severity="info")], "PASS"),
        ([outcome(success=True), outcome(severity="warn")], "WARN"),
        ([outcome(severity="warn"), outcome()], "BLOCKED"),
        ([outcome(severity="info", error="it broke")], "BLOCKED"),
        ([], "BLOCKED"),
    ],
)
def test_the_headline_is_the_verdict(outcomes, verdict):
    page = render(result(*outcomes))

    assert re.search(r"<h1>.*?>(\w+)</span>", page).group(1) == verdict
    assert f"<title>{verdict} departures 2013-01-05</title>" in page


def test_the_head_says_what_was_checked():
    text = Page(render(result(outcome(success=True), outcome(severity="warn")))).text

    for said in ("2 checked, 1 failed", "1,000", "departures, version 7", "abc123", "def456", "duckdb"):
        assert said in text


def test_expectations_stand_worst_first_and_unknown_is_explained():
    page = render(
        result(
            outcome("expect_passed", success=True),
            outcome("expect_warned", "warn"),
            outcome("expect_informed", "info"),
            outcome("expect_unknown", "info", error="there is no column 'speed'"),
            outcome("expect_blocked", observed=12.5, bound={"max_value": 10}, unexpected_count=25, note="see unit"),
        )
    )

    order = [page.index(f'title="expect_{name}"') for name in ("blocked", "unknown", "warned", "informed", "passed")]
    assert sorted(order[:2]) + order[2:] == sorted(order)
    text = Page(page).text
    assert "1 UNKNOWN (could not be checked" in text
    assert "nobody knows whether the data is good: there is no column 'speed'" in text
    for said in ("12.5", "max value: 10", "25 (2.50%)", "see unit"):
        assert said in text


def test_everything_is_escaped():
    evil = "<script>alert('x')</script>"
    page = render(
        result(
            outcome(evil, observed=evil, bound={"value_set": [evil]}, note=evil, row_ids=(evil,), error=evil),
            outcome(bound={"value_set": [evil, "gone <b>"]}).model_copy(update={"column": evil}),
            batch=evil,
        ),
        profiled({evil: [evil, evil, "b"], "n": [1, 2, 3]}),
        profiled({evil: [evil, "gone <b>", "b"], "n": [1, 2, 3]}),
    )

    assert "<script" not in page
    assert "gone &lt;b&gt;" in page
    Page(page)


def test_the_page_needs_nothing_but_itself():
    random = np.random.default_rng(0)
    columns = {"x": random.normal(size=500), "c": ["a", "b"] * 250}
    page = Page(render(result(outcome(success=True)), profiled(columns), profiled(columns, "2013-01-04")))

    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert not any({"src", "onclick", "onload"} & set(attributes) for _, attributes in page.tags)
    assert all(attributes["href"].startswith("#") for tag, attributes in page.tags if tag == "a")
    assert "prefers-color-scheme: dark" in page.text
    assert "url(" not in page.text


def test_columns_of_failed_expectations_are_marked_and_linked():
    failed = outcome().model_copy(update={"column": "x"})
    page = render(result(failed), profiled({"w": [1.0], "x": [1.0]}))

    assert '<a href="#c1"><code>x</code></a>' in page
    assert re.findall(r'<tr id="(c\d)"><td><code>\w</code> <span', page) == ["c1"]


def test_nearly_unique_columns_show_no_value_nor_range():
    names = [f"Person {n}" for n in range(100)]
    page = render(result(), profiled({"name": names, "account": [*range(770_000, 770_100)]}))

    assert "Person" not in page
    assert "770" not in page
    assert page.count("nearly unique: its values are not shown") == 2


def test_a_column_that_was_nearly_unique_in_the_reference_shows_nothing_either():
    reference = profiled({"name": [f"Person {n}" for n in range(100)]}, "2013-01-04")

    assert "Person" not in render(result(), profiled({"name": ["Person 1"] * 100}), reference)


def test_only_twelve_categories_are_named_and_a_vanished_one_is_among_them():
    today = [f"v{n:02}" for n in range(30) for _ in range(60 - n)]
    reference = profiled({"c": [*today, *["lost"] * 200]}).columns["c"]
    drawing = categories(profiled({"c": today}).columns["c"], reference, known=reference.top)
    texts = [text.text for text in ElementTree.fromstring(drawing).iter("text")]

    labels = [text for text in texts if not text.endswith("%")]
    assert len(labels) == 13
    assert labels[-2:] == ["lost", "19 others"]
    assert labels[0] == "v00"


def test_a_value_that_nobody_named_is_counted_and_not_written():
    """An address in 300 of 768 rows is not nearly unique, and still somebody's."""
    mails = [f"p{n % 300}@example.org" for n in range(768)]
    carriers = [*["UA"] * 500, *["DL"] * 200, *["ann@example.org"] * 68]
    today = profiled({"mail": mails, "carrier": carriers, "late": [True, False] * 384})
    bound = outcome(bound={"value_set": ["UA", "AA"]}).model_copy(update={"column": "carrier"})
    elsewhere = outcome(bound={"value_set": ["DL", mails[0]]}).model_copy(update={"column": "late"})
    page = render(result(bound, elsewhere), today)

    drawn = page[page.index("<h2>Columns") :]
    assert "@" not in drawn
    assert ">UA<" in drawn
    assert ">DL<" not in drawn
    assert ">2 others<" in drawn
    assert {">true<", ">false<"} <= set(re.findall(">true<|>false<", drawn.lower()))


def test_a_slice_of_earlier_days_is_known_and_a_new_one_is_not():
    def sliced(*values, slices=("c",)):
        table = pa.table({"c": [value for value in values for _ in range(50)]})
        return profile_table(table, dataset="d", key="2013-01-05", revision="r", slices=slices)

    today, reference = sliced("UA", "ann@example.org"), sliced("UA", "EV")
    page = render(result(), today, reference)

    assert ">UA<" in page
    assert ">EV<" in page
    assert "ann@" not in page
    assert ">UA<" not in render(result(), sliced("UA", "DL", slices=()), reference)
    assert ">UA<" not in render(result(), today)


def test_the_histogram_shows_shares_of_the_batch_against_the_reference():
    random = np.random.default_rng(0)
    columns = [profiled({"x": random.normal(mean, 1, 5000)}).columns["x"] for mean in (0, 3)]
    svg = ElementTree.fromstring(distribution(*columns))
    bars, line = (svg.find(f"path[@class='{name}']").get("d") for name in ("bar", "line"))

    heights = [float(height) for height in re.findall(r"v(-[\d.]+)h", bars)]
    tops = [float(top) for top in re.findall(r"V([\d.]+)h", line)]
    assert np.argmin(heights) < 16 < np.argmin(tops), "the reference lies further right"
    assert min(tops) == pytest.approx(0, abs=25)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([5, 5]),
        pa.array([1.0, None, float("nan"), float("inf")]),
        pa.array([-1e308, 1e308]),
        pa.array([None], pa.float64()),
        pa.array([0], pa.timestamp("us")),
        pa.array([2**62], pa.int64()).cast(pa.timestamp("us")),
        pa.array([2**62, -(2**62)]),
        pa.array([True, None]),
        pa.array(["", None]),
        pa.array([], pa.string()),
        pa.array([[1]]),
    ],
    ids=lambda values: f"{values.type}-{len(values)}",
)
def test_odd_columns_are_drawn_or_left_out(values):
    profile = profiled({"c": values})

    Page(render(result(), profile, profile))
    Page(render(result(), profile, profiled({"c": ["text"]})))
    Page(render(result(), profile, merge([profile, profiled({"d": [1]}, "2013-01-04")])))


def test_numbers_and_times_are_written_for_people():
    assert [number(value) for value in (None, 0, 0.123456, 12.5, 1234567.8, 1e20, -3)] == [
        "none",
        "0",
        "0.1235",
        "12.5",
        "1,234,568",
        "1e+20",
        "-3",
    ]
    assert instant(1357387200e6) == "2013-01-05 12:00"
    assert instant(1e25) == "1e+25 µs"
