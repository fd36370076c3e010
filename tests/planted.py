"""Looking for planted values where no row of a person and no secret may be."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa

OF_THE_DATA = frozenset({"lake", "partitions", "features", "snapshots", "quarantine", "feast"})
"""Folders of a home that hold rows."""


def files(root: Path, without: Collection[str] = OF_THE_DATA) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file below a folder, but for some of its own folders."""
    for file in sorted(root.rglob("*")):
        if file.relative_to(root).parts[0] not in without and file.is_file():
            yield str(file), file.read_bytes()


def databases(url: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and all rows, as text, of every table of every database of a PostgreSQL server."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = connection.scalars(sa.text("SELECT datname FROM pg_database WHERE NOT datistemplate")).all()
    engine.dispose()
    for name in names:
        engine = sa.create_engine(sa.make_url(url).set(database=name))
        with engine.connect() as connection:
            for table in sa.inspect(connection).get_table_names():
                rows = connection.scalars(sa.text(f'SELECT t::text FROM "{table}" t')).all()
                yield f"{name}.{table}", "\n".join(rows).encode()
        engine.dispose()


def found(planted: Iterable[str], where: Iterable[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Return where and which of the planted values are, as text or as the bytes of a number."""
    needles = {value: [value.encode()] for value in planted}
    for value, forms in needles.items():
        if value.replace(".", "").isdecimal():
            forms.append(struct.pack("<d", float(value)))
    return [
        (name, value)
        for name, content in where
        for value, forms in needles.items()
        if any(form in content for form in forms)
    ]
