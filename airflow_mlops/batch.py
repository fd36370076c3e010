"""Batch prediction as a piece of a :class:`~airflow_mlops.pipeline.ModelPipeline`.

A module of its own: building a piece takes time, and only those who use it are to pay that at every parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from airflow_mlops.resources import Resources
from airflow_mlops.typed import SuiteName, part


@part
class BatchPredict:
    """Predictions of each partition of the source by the version that serves, sealed as ``<model>.predictions``.

    :param through: ``model`` runs the version with the alias ``champion`` in the task; ``server`` asks the model server
        for the one with the label ``stable``.
    :param columns: Columns of the source that go along, beside the entity and its time.
    :param suite: ``module:function`` with the expectations that the predictions must meet before they are sealed.
    :param cron: When it runs, for the partition before: as often as the source is cut. None: after each run of
        ``<model>.features``.
    :param resources: Where ``predict`` runs.
    """

    through: Literal["model", "server"] = "model"
    columns: Sequence[str] = ()
    suite: SuiteName | None = None
    cron: str | None = None
    resources: Resources = Field(default_factory=Resources)
