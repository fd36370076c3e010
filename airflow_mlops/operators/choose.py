"""The operator by which a form picks one of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.branch import BaseBranchOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ChooseOperator(BaseBranchOperator):
    """Go on with the task that is named; the others that follow are skipped.

    :param chosen: Id of a task that follows.
    """

    template_fields: Sequence[str] = ("chosen",)
    ui_color = "#e8f0fe"

    def __init__(self, *, chosen: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chosen = chosen

    def choose_branch(self, context: Context) -> str:
        """Return the id of the task."""
        return self.chosen
