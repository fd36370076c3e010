"""Watermarks move over contiguous success only; what is missing is always named."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.engine.features.materialization.watermarks import Watermark, watermarks
from tests.feast_fixtures import ledger_of


def at(n: float) -> datetime:
    return datetime(2024, 3, 1, tzinfo=UTC) + timedelta(days=n)


def key(n: int) -> str:
    return str(at(n).date())


def write(mark: Watermark, first: float, last: float, since: float = 0, *, sha: str = "s", ttl: int | None = None):
    days = range(int(first), -int(-last // 1))
    return mark.with_written(
        (at(first), at(last)),
        since=at(since),
        files={key(n): sha for n in days},
        code="code",
        ttl=None if ttl is None else timedelta(days=ttl),
    )


def test_moves_over_contiguous_success_only():
    mark = write(Watermark(), 2, 3)
    assert (mark.until, mark.ahead) == (None, ((at(2), at(3)),))
    assert mark.gaps == ()
    mark = write(mark, 0, 1)
    assert (mark.until, mark.gaps) == (at(1), ((at(1), at(2)),))
    assert mark.missing(at(0), at(4)) == [(at(1), at(2)), (at(3), at(4))]
    mark = write(mark, 1, 2)
    assert (mark.until, mark.ahead, mark.gaps) == (at(3), (), ())
    assert write(mark, 0, 1).until == at(3), "what is older moves nothing"


def test_a_gap_stays_until_it_is_closed():
    mark = write(write(write(Watermark(), 0, 1), 2, 3), 5, 7)
    assert mark.gaps == ((at(1), at(2)), (at(3), at(5)))
    assert mark.newest == at(7)
    closed = write(write(mark, 3, 5), 1, 2)
    assert (closed.until, closed.gaps) == (at(7), ())


def test_what_can_not_be_served_any_more_is_no_gap():
    mark = write(write(Watermark(), 0, 1), 5, 6, since=5)
    assert (mark.until, mark.gaps) == (at(6), ())
    later = write(write(Watermark(), 0, 1), 6, 7, since=5)
    assert (later.until, later.missing(at(5), at(7))) == (at(1), [(at(5), at(6))])


def test_any_order_and_any_repetition_come_to_the_same():
    pieces = [(n / 2, n / 2 + 0.5) for n in range(12)]
    for seed in range(50):
        mark, order = Watermark(), pieces + random.Random(seed).choices(pieces, k=6)
        random.Random(seed).shuffle(order)
        for piece in order:
            mark = write(mark, *piece)
        assert (mark.until, mark.ahead, mark.parts) == (at(6), (), {})
        assert mark.files == {key(n): "s" for n in range(6)}


def test_a_day_counts_as_written_once_all_of_it_was_from_one_file():
    mark = write(Watermark(), 0, 0.5, sha="old")
    assert mark.files == {}
    assert mark.written_from(key(0), "old") == ((at(0), at(0.5)),)
    mixed = write(mark, 0.5, 1, sha="new")
    assert (mixed.until, mixed.files) == (at(1), {}), "online, but of two files"
    assert mixed.written_from(key(0), "new") == ((at(0.5), at(1)),)
    assert write(mixed, 0, 0.5, sha="new").files == {key(0): "new"}
    again = write(write(Watermark(), 0, 1, sha="old"), 0.25, 0.5, sha="new")
    assert again.files == {}
    assert again.written_from(key(0), "old") == ()


def test_forgets_files_whose_values_are_not_served_any_more():
    mark = Watermark()
    for n in range(6):
        mark = write(mark, n, n + 1, ttl=2)
    assert set(mark.files) == {key(4), key(5)}
    assert set(write(mark, 6, 6.5, ttl=2).files) == {key(4), key(5)}
    assert set(write(mark, 6, 6.5, ttl=2).parts) == {key(6)}


def test_the_newest_day_says_by_which_code():
    mark = write(Watermark(), 3, 4)
    older = mark.with_written((at(0), at(1)), since=at(0), files={key(0): "s"}, code="older", ttl=None)
    assert older.code == "code"
    assert older.with_written((at(4), at(5)), since=at(0), files={key(4): "s"}, code=None, ttl=None).code is None


def test_is_kept_in_the_ledger_as_json(home):
    ledger = ledger_of(home)
    mark = write(write(write(Watermark(store="x"), 0, 1), 2, 3), 3, 3.5)
    assert json.loads(json.dumps(mark.to_value())) == mark.to_value()
    assert ledger.swap("feature_watermark:p:v", mark.to_value(), expected=None)
    ledger.swap("feature_watermark:p:first_release", {"until": at(3).isoformat()}, expected=None)
    found = watermarks(ledger, "p", ["v", "first_release", "never"])
    assert found == {"v": mark, "first_release": Watermark(until=at(3)), "never": Watermark()}


@pytest.mark.parametrize("until", [None, 0, 3])
def test_missing_ends_where_it_is_asked_to(until):
    mark = Watermark(until=None if until is None else at(until), ahead=((at(5), at(6)),))
    start = until or 0
    assert mark.missing(at(0), at(4)) == [(at(start), at(4))]
    assert mark.missing(at(5), at(5.5)) == []
