"""Talking to MLflow: the client, and its errors in our words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from airflow_mlops.engine.imports import import_uninstrumented
from airflow_mlops.exceptions import ConfigError, DataError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.utils.rest_utils import MlflowHostCreds

NO_SUCH_THING = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's code for what is not there."""
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
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
    *,
    lookups_only: bool = False,
) -> MlflowClient:
    """Return a client. MLflow takes credentials from environment variables only, so they are set here.

    :param lookups_only: No file is up- or downloaded by this client. Its credentials stay with it: in a triggerer many
        connections share one environment.
    :raises ConfigError: when the URI is of no kind that MLflow knows.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    credentials = (username, password, token)
    if not lookups_only:
        os.environ.update({name: value for name, value in zip(_CREDENTIALS, credentials, strict=True) if value})

    from mlflow import MlflowClient

    # The first request loads MLflow's plugins, and Feast is one of them.
    import_uninstrumented("mlflow.tracking.request_header.registry")
    with talking_to(tracking_uri):
        client = MlflowClient(tracking_uri, registry_uri or tracking_uri)
        if lookups_only and any(credentials):
            _keep_credentials(client, *credentials)
    return client


def _keep_credentials(client: MlflowClient, username: str | None, password: str | None, token: str | None) -> None:
    """Let the requests of a client carry these credentials, whatever the environment says."""
    from mlflow.utils.credentials import get_default_host_creds

    def credentials(uri: str) -> MlflowHostCreds:
        found = get_default_host_creds(uri)
        found.username, found.password, found.token = username, password, token
        return found

    for store in (client._tracking_client.store, client._get_registry_client().store):
        if hasattr(store, "get_host_creds"):  # a database has none
            store.get_host_creds = partial(credentials, store.get_host_creds().host)


@contextmanager
def own_credentials() -> Iterator[None]:
    """Take the credentials of a client out of the environment again: they are not for the next MLflow."""
    before = {name: os.environ.get(name) for name in _CREDENTIALS}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


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
                detail=f"{first_line(error)} (tracking URI {uri})",
                hint="Check the model's name, version and alias on MLflow's own pages.",
            ) from None
        if error.error_code in _REFUSED:
            raise ConfigError(
                "MLflow refuses the credentials.",
                detail=f"{first_line(error)} (tracking URI {uri})",
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
        detail=f"tracking URI {uri}: {first_line(error)}",
        hint="Check that the server is up and reachable from the worker. Serving does not need it meanwhile.",
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, without passwords."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return without_credentials(line)[:_LONGEST_LINE]
