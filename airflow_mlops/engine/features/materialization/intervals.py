"""What Feast's registry is told of materialisation: intervals, for Feast's own UI and metrics; never a lock on reads.

``FeatureStore.materialize`` marks a view ``MATERIALIZING``, and until it ends other processes refuse to read the view
online; if it is killed, until somebody clears the mark. We write beside it, and the view stays readable.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow_mlops.engine.features.materialization.chunks import TICK
from airflow_mlops.engine.features.materialization.watermarks import Span
from airflow_mlops.engine.features.project.store import feast_errors, project_lock
from airflow_mlops.engine.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from feast import FeatureStore


def record_interval(store: FeatureStore, home: Path, view: str, span: Span) -> None:
    """Add a materialised span to a view, once. The registry loses some when two processes add at a time.

    :raises TransientError: when the registry does not answer.
    """
    start, end = span[0], span[1] - TICK
    with locked(project_lock(home, store.project)), feast_errors():
        store.registry.refresh(store.project)
        found = store.registry.get_feature_view(view, store.project, allow_cache=False)
        if not any((_utc(first), _utc(last)) == (start, end) for first, last in found.materialization_intervals):
            store.registry.apply_materialization(found, store.project, start, end)


def release(store: FeatureStore, home: Path, views: Iterable[str]) -> list[str]:
    """Make views readable that a run of Feast's own materialisation left marked; return which were.

    One that still runs is not disturbed: it sets the mark once, when it starts.

    :raises TransientError: when the registry does not answer.
    """
    from feast.feature_view import FeatureViewState

    with feast_errors():
        marked = [view for view in views if store.get_feature_view(view).state is FeatureViewState.MATERIALIZING]
        for name in marked:
            with locked(project_lock(home, store.project)):
                store.registry.refresh(store.project)
                found = store.registry.get_feature_view(name, store.project, allow_cache=False)
                found.state = FeatureViewState.AVAILABLE_ONLINE
                store.registry.apply_feature_view(found, store.project)
                _insist(store, name)
    return marked


def _insist(store: FeatureStore, name: str) -> None:
    """Clear the mark where the registry sees no change when the mark alone changes: Feast 0.67's SQL registry."""
    from feast.feature_view import FeatureViewState

    store.registry.refresh(store.project)
    found = store.registry.get_feature_view(name, store.project, allow_cache=False)
    if found.state is FeatureViewState.MATERIALIZING:
        kept = found.materialization_intervals
        found.materialization_intervals = [*kept, *kept[-1:]] or [(found.created_timestamp, found.created_timestamp)]
        found.state = FeatureViewState.AVAILABLE_ONLINE
        store.registry.apply_feature_view(found, store.project)
        found.materialization_intervals = kept
        store.registry.apply_feature_view(found, store.project)


def _utc(moment: datetime) -> datetime:
    from feast.utils import make_tzaware

    return make_tzaware(moment)
