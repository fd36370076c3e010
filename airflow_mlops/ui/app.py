"""The web application under ``/mlops``: the pages of models, announcements, exclusions, halts, and reports.

Airflow does not guard what a plugin mounts: every route here declares what its caller must be allowed to do.
"""

from __future__ import annotations

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import auth_manager_from_app
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from airflow_mlops.exceptions import MlopsError
from airflow_mlops.ui import announcements, exclusions, halts, pages, reports
from airflow_mlops.ui.errors import explain, explain_body, explain_refusal

PREFIX = "/mlops"


def create_app() -> FastAPI:
    """Return the application, to be mounted at ``PREFIX``."""
    # Its documentation pages would be open to anyone.
    app = FastAPI(title="airflow-mlops", docs_url=None, redoc_url=None, openapi_url=None)
    # Airflow's own dependencies look for the auth manager in the state of the root application.
    app.dependency_overrides[auth_manager_from_app] = get_auth_manager
    app.include_router(announcements.router, prefix="/api/v1")
    app.include_router(exclusions.router, prefix="/api/v1")
    app.include_router(halts.router, prefix="/api/v1")
    app.include_router(pages.router)
    app.include_router(reports.router)
    app.add_exception_handler(MlopsError, explain)
    app.add_exception_handler(RequestValidationError, explain_body)
    app.add_exception_handler(HTTPException, explain_refusal)
    return app
