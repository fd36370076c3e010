"""Talking to MLflow: the client, and its errors in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_mlops.engine.imports import import_uninstrumented
from airflow_mlops.exceptions import ConfigError, DataError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_WRONG_REQUEST = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_REFUSED = {"CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_LONGEST_LINE = 500
_SETTINGS = {
    # MLflow's own seven retries take minutes; Airflow retries the task anyway.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # Task logs are no terminals.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def make_client(
    tracking_uri: str,
    registry_uri: str | None = None,
    username: str | None = None,
    password: str | None = None,
    token: str | None = None,
) -> MlflowClient:
    """Return a client. MLflow takes credentials from environment variables only, so they are set here.

    :raises ConfigError: when the URI is of no kind that MLflow knows.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    credentials = {
        "MLFLOW_TRACKING_USERNAME": username,
        "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_TRACKING_TOKEN": token,
    }
    os.environ.update({name: value for name, value in credentials.items() if value})

    from mlflow import MlflowClient

    # The first request loads MLflow's plugins, and Feast is one of them.
    import_uninstrumented("mlflow.tracking.request_header.registry")
    with talking_to(tracking_uri):
        return MlflowClient(tracking_uri, registry_uri or tracking_uri)


@contextmanager
def talking_to(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow raises into our errors: what a retry may cure, and what it cannot."""
    import requests
    from mlflow.exceptions import InvalidUrlException, MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    uri = without_credentials(tracking_uri)
    try:
        yield
    except (InvalidUrlException, UnsupportedModelRegistryStoreURIException):
        raise ConfigError(
            "The MLflow tracking URI is of no kind that MLflow knows.",
            detail=f"tracking URI {uri}",
            hint="Set the host of the connection of type mlflow to something like http://mlflow.example.com:5000.",
        ) from None
    except MlflowException as error:
        if error.error_code in _WRONG_REQUEST:
            raise DataError(
                "MLflow does not have it, or does not accept it.",
                detail=f"{_first_line(error)} (tracking URI {uri})",
                hint="Check the model's name, version and alias on MLflow's own pages.",
            ) from None
        if error.error_code in _REFUSED:
            raise ConfigError(
                "MLflow refuses the credentials.",
                detail=f"{_first_line(error)} (tracking URI {uri})",
                hint="Correct login and password, or the token, of the connection of type mlflow.",
            ) from None
        raise _down(uri, error) from None
    except (requests.RequestException, OSError) as error:
        raise _down(uri, error) from None


def without_credentials(text: str) -> str:
    """Return a text in which no URL says ``user:password@``."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def _down(uri: str, error: Exception) -> TransientError:
    return TransientError(
        "MLflow does not answer.",
        detail=f"tracking URI {uri}: {_first_line(error)}",
        hint="Check that the server is up and reachable from the worker. Serving does not need it meanwhile.",
    )


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return without_credentials(line)[:_LONGEST_LINE]
