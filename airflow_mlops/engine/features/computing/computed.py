"""The stored features that a training set can see: computed at all, from the right data, by one and the same code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.engine.data.exclusions import excluded_keys
from airflow_mlops.engine.data.parquet import listing
from airflow_mlops.engine.features.computing import provenance
from airflow_mlops.engine.features.computing.code import Code
from airflow_mlops.engine.features.computing.provenance import ByFile, Inputs, Revisions
from airflow_mlops.engine.features.project.schema import FeatureRepo, feature_file, partitioning_of
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from feast import FeatureStore

_NAMED = 20


def stored_here(feast: FeatureStore, home: Path, views: Iterable[str]) -> list[str]:
    """Return those feature views whose rows the features DAG computes into the home folder.

    Others read a source of their own, such as a table of a warehouse: what it held before is not ours to pin.
    """
    from feast import FileSource

    ours = []
    for name in views:
        source = feast.get_feature_view(name).batch_source
        folder = feature_file(home, name, "*").parent
        if isinstance(source, FileSource) and Path(source.path).parts[-3:-1] == folder.parts[-2:]:
            ours.append(name)
    return ours


def computed_for(home: Path, repo: FeatureRepo, recipe: Recipe, views: Iterable[str]) -> ByFile:
    """Return (feature view, day) → its inputs, of the days of features that predictions in the window can see."""
    begin, end = recipe.span
    found: dict[tuple[str, str], Inputs | None] = {}
    for view in views:
        lives = repo.views[view].ttl_seconds
        seen = recipe.start if lives is None else recipe.begin - timedelta(seconds=lives)
        first = min(max(seen, recipe.start), begin)
        found |= provenance.read_inputs(home, [view], first, end)
    return found


def check_computed(home: Path, recipe: Recipe, views: Iterable[str], computed: ByFile, revisions: Revisions) -> None:
    """Refuse features that were never computed, which would silently be missing values, or from other partitions.

    :param computed: Those that predictions in the window can see.
    :param revisions: The partitions of now.
    :raises DataError: naming the days.
    """
    for view in views:
        partitioning = partitioning_of(home, view)
        needed = partitioning.keys(*recipe.span, without=excluded_keys(recipe.left_out, partitioning))
        missing = [key for key in needed if (view, key) not in computed]
        if missing:
            raise DataError(
                f"The rows of feature view {view!r} for {missing[0]} were not computed.",
                detail=f"window {recipe.window}; missing: {listing(missing)}",
                hint="Run the features DAG for the missing days first, oldest first.",
            )
    stale = provenance.compare(computed, revisions, recipe.excluded)
    if stale:
        raise DataError(
            f"The features of {len(stale)} days were computed from other data than the snapshot's.",
            detail=f"service {recipe.service!r}; days: {few(stale)}",
            hint="Partitions that they read were replaced since, or exclusions changed. Run the features DAG for "
            "these days.",
        )


def one_code(recipe: Recipe, computed: ByFile, code: Code | None) -> dict[str, str]:
    """Return feature view → the identity of the code that computed all of its features.

    :param code: Identity of the code of now; None where it is not known: then the newest day of each view says.
    :raises DataError: naming the days that other code computed.
    """
    newest = {view: found.code for (view, _), found in sorted(computed.items()) if found is not None}
    asked = newest if code is None else {view: code.of(view) for view in newest}
    other = provenance.other_code(computed, Code("", asked))
    if other:
        raise DataError(
            f"The features of {len(other)} days were computed by other code than that of "
            f"{'the newest day' if code is None else 'now'}.",
            detail=f"service {recipe.service!r}; days: {few(other)}",
            hint="The transform changed, or a module beside it that it imports. Run the features DAG for these days, "
            "oldest first; or put the code back that computed them, and give the changed features a new service "
            "version.",
        )
    return asked


def few(names: Sequence[str], separator: str = ", ") -> str:
    """Join names for an error, and only count those after the first twenty."""
    more = f"{separator}and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more
