"""``/reports/{name}.html``: the reports that tasks left in ``[mlops] home``, for whoever may see assets."""

from __future__ import annotations

import re

from airflow.api_fastapi.core_api.security import requires_access_asset
from fastapi import APIRouter, Depends
from fastapi.responses import FileResponse

from airflow_mlops.exceptions import DataError
from airflow_mlops.operators.base import open_home

router = APIRouter()

# A report has names and values of the data in it, on the origin of Airflow's session: it may draw, and nothing else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}


@router.get("/reports/{name}.html", dependencies=[Depends(requires_access_asset("GET"))])
def report(name: str) -> FileResponse:
    """Return one report."""
    from airflow_mlops.engine.data.shared import fetch

    file = open_home() / "reports" / f"{name}.html"
    # No separators, and no dot in front: the name cannot leave the folder.
    is_name = re.fullmatch(r"\w[\w.-]{0,199}", name, re.ASCII)
    if is_name:
        fetch(file)
    if not is_name or not file.is_file():
        raise DataError(
            f"There is no report {name!r}.",
            detail="looked in the folder `reports` of option [mlops] home, as the API server sees it",
            hint="Reports go with the home folder. Clear the task that wrote it, and let the API server see the same "
            "home as the workers.",
        )
    return FileResponse(file, media_type="text/html; charset=utf-8", headers=_HEADERS)
