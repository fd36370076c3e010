"""What stands in a fleet's DAGs beside those of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReportConfigErrorOperator(MlopsOperator):
    """Fail, and say what is wrong with the configuration of a member of a fleet: until it is mended, it has no other
    DAG.

    ``Fleet.dags()`` makes it; you need not.

    :param headline: What is wrong.
    :param detail: Where.
    :param hint: How to mend it.
    """

    # No templates: the words may show what somebody wrote.
    template_fields = MlopsOperator.template_fields

    def __init__(self, *, headline: str, detail: str = "", hint: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.headline = headline
        self.detail = detail
        self.hint = hint

    def perform(self, context: Context) -> Never:
        """Fail."""
        raise ConfigError(self.headline, detail=self.detail, hint=self.hint)
