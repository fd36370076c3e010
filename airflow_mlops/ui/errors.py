"""How an error reaches the caller of a route: headline, detail and hint, as JSON or, in a browser, as a page."""

from __future__ import annotations

from typing import cast

from fastapi import Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from airflow_mlops.exceptions import ConfigError, DataError, MlopsError
from airflow_mlops.ui.rendering import page

_REFUSED = {
    status.HTTP_401_UNAUTHORIZED: ("You are not signed in.", "Sign in to Airflow, and load this page again."),
    status.HTTP_403_FORBIDDEN: ("You may not see this.", "It takes the right to read all DAGs of the model."),
    status.HTTP_404_NOT_FOUND: ("There is no such page.", "The page Models leads to those that there are."),
}


def explain(request: Request, error: Exception) -> Response:
    """Answer with an error of ours: 404 for data that is not there, 503 for what a retry may cure, else 400."""
    problem = cast(MlopsError, error)
    code = status.HTTP_400_BAD_REQUEST
    if isinstance(problem, DataError):
        code = status.HTTP_404_NOT_FOUND
    elif problem.retryable:
        code = status.HTTP_503_SERVICE_UNAVAILABLE
    if "text/html" in request.headers.get("accept", ""):
        return page(request, "error.html", {"problem": problem}, code)
    return JSONResponse({"headline": problem.headline, "detail": problem.detail, "hint": problem.hint}, code)


def explain_refusal(request: Request, error: Exception) -> Response:
    """Answer who is not signed in, who may not, and who asks for what is not there; a browser gets a page."""
    refused = cast(HTTPException, error)
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": refused.detail}, refused.status_code, headers=refused.headers)
    headline, hint = _REFUSED.get(refused.status_code, (str(refused.detail), ""))
    return page(request, "error.html", {"problem": ConfigError(headline, hint=hint)}, refused.status_code)


def explain_body(request: Request, error: Exception) -> Response:
    """Answer a request whose parts are missing or of the wrong type."""
    problems = cast(RequestValidationError, error).errors()
    where = [".".join(str(part) for part in problem["loc"]) for problem in problems]
    refused = ConfigError(
        "The request is not what this address takes.",
        detail="; ".join(f"{place}: {problem['msg']}" for place, problem in zip(where, problems, strict=True)),
        hint="Send JSON with these fields, and Content-Type: application/json. An announcement is "
        '{"state": "degraded", "reason": "in words"}, a halt {"reason": "in words"}.',
    )
    response = explain(request, refused)
    response.status_code = status.HTTP_422_UNPROCESSABLE_CONTENT
    return response
