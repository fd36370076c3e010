"""Links to the reports of validations."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow.sdk import conf

from airflow_mlops.links.base import XComLink

if TYPE_CHECKING:
    from airflow.sdk import Context


class GXValidationReportLink(XComLink):
    """To the report that shows what each expectation said, with the distributions drawn."""

    name = "Validation report"
    key = "gx_validation_report_link"

    @classmethod
    def persist(cls, context: Context, url: str) -> None:
        """Store the URL for this run of the task.

        A path such as ``/mlops/reports/x.html`` is on Airflow's own web server, whatever name a browser reaches it
        by, and below the path of ``[api] base_url`` if that has one.
        """
        if url.startswith("/"):
            url = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/") + url
        super().persist(context, url)
