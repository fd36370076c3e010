"""How the columns of a dataset are distributed now, and were in the last partition that a version was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from airflow_mlops.contracts import ColumnProfile, Profile
from airflow_mlops.engine.data.charts import categories, distribution
from airflow_mlops.engine.data.profiles import null_rate
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.overview.models import ModelRow
from airflow_mlops.engine.overview.partitions import Calendar
from airflow_mlops.engine.overview.versions import detail
from airflow_mlops.exceptions import MlopsError


@dataclass(frozen=True)
class Column:
    """One column; ``drawing`` is SVG."""

    name: str
    type: str
    nulls: float
    nulls_then: float | None
    drawing: Markup


@dataclass(frozen=True)
class Profiles:
    """Of a dataset; ``problem`` says in words why there are none."""

    problem: str = ""
    now_key: str = ""
    then_key: str = ""
    version: int | None = None
    columns: tuple[Column, ...] = ()


def profiles_of(ledger: Ledger, row: ModelRow, calendar: Calendar | None) -> Profiles:
    """Return the profile of the last sealed partition, over that of the last one that the serving version saw."""
    from airflow_mlops.operators.base import open_home, partition_store

    sealed = [cell for cell in calendar.cells if cell.state == "sealed"] if calendar is not None else []
    if calendar is None or not sealed:
        return Profiles("No partition of this period is sealed.")
    version, then_key, then_revision = _seen(ledger, row, calendar.dataset)
    try:
        store = partition_store(open_home(), ledger)
        now = store.profile(store.get(calendar.dataset, sealed[-1].key, sealed[-1].revision))
        then = store.profile(store.get(calendar.dataset, then_key, then_revision)) if then_key else None
    except MlopsError as error:
        return Profiles(f"The profiles cannot be read here: {error.headline}")
    if now is None:
        return Profiles("No profile was written of the last partition.")
    columns = tuple(
        _column(name, column, then.columns.get(name) if then else None, now, then)
        for name, column in now.columns.items()
    )
    return Profiles("", sealed[-1].key, then_key if then else "", version, columns)


def _seen(ledger: Ledger, row: ModelRow, dataset: str) -> tuple[int | None, str, str]:
    """Return the version that serves, or was judged last; and the last partition that it was trained on."""
    version = next((one.version for one in row.serving if one.version is not None), None)
    version = version or (row.verdict.version if row.verdict else None)
    if version is not None:
        for held in detail(ledger, row.model, version).held:
            if held.dataset == dataset and held.partitions:
                key = max(held.partitions)
                return version, key, held.partitions[key]
    return version, "", ""


def _column(
    name: str, now: ColumnProfile, then: ColumnProfile | None, profile: Profile, other: Profile | None
) -> Column:
    """Draw a column. Of texts only the values of slices, which somebody declared, are named."""
    if now.kind in ("number", "time"):
        drawing = distribution(now, then)
    else:
        known = {"True", "False", "true", "false", *profile.slices.get(name, {})}
        known |= other.slices.get(name, {}).keys() if other else set()
        drawing = categories(now, then, known)
    return Column(name, now.type, null_rate(now), null_rate(then) if then else None, Markup(drawing))
