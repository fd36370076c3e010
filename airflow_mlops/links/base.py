"""Base of the links: a URL pushed while the task runs, so that it can be followed before the task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey


class XComLink(BaseOperatorLink):
    """A button in the task's view whose URL the operator knows once it has started.

    Airflow reads ``key`` whenever the page is opened, and by itself fills it only when the task has ended;
    :meth:`persist` fills it at once.
    """

    name: ClassVar[str]
    key: ClassVar[str]

    @property
    def xcom_key(self) -> str:
        """XCom key under which the URL is stored."""
        return self.key

    @classmethod
    def persist(cls, context: Context, url: str) -> None:
        """Store the URL for this run of the task."""
        context["ti"].xcom_push(key=cls.key, value=url)

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the stored URL, or an empty string when the task never got that far."""
        return XCom.get_value(ti_key=ti_key, key=self.key) or ""
