"""What AWS answers when it does not do as it is asked, in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowException
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError

EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_REFUSED = (
    *("AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"),
    *("InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException"),
)
_FULL = ("ResourceLimitExceeded", "LimitExceededException")
_GOES_ON = "A job that runs goes on meanwhile, and this task finds it when it is tried again or cleared."


@contextmanager
def in_words(service: str, conn_id: str | None) -> Iterator[None]:
    """Turn what AWS answers into an error of this package.

    :param service: Name of the service, as its users know it.
    :param conn_id: Airflow connection that it is asked by; None: what the machine has.
    :raises ConfigError: when it refuses the request, or the one who asks.
    :raises TransientError: when it does not answer, is busy or full, or the credentials have expired.
    """
    try:
        yield
    except (AirflowException, BotoCoreError, ClientError) as error:
        # BatchOperator hands on what boto3 raised as the argument of an exception of Airflow's.
        cause = next((one for one in (error, *error.args) if isinstance(one, BotoCoreError | ClientError)), None)
        if cause is None:
            raise
        raise _explained(cause, service, conn_id) from None


def _explained(error: BotoCoreError | ClientError, service: str, conn_id: str | None) -> MlopsError:
    by = f"connection {conn_id!r}" if conn_id else "the credentials of this machine"
    detail = f"{by}: {error}"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ConfigError("There are no credentials for AWS.", detail, f"Put them into {by}, or let it assume a role.")
    if isinstance(error, NoRegionError | ParamValidationError):
        return ConfigError(f"{service} cannot be asked.", detail, "Correct the launcher, or the connection's extra.")
    if isinstance(error, BotoCoreError):
        return TransientError(f"{service} does not answer.", detail, _GOES_ON)
    code, status = str(error.response["Error"]["Code"]), error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code in EXPIRED:
        return expired(detail)
    if code in _REFUSED:
        return ConfigError(
            f"AWS does not allow {error.operation_name}.",
            detail,
            f"docs/training/aws-permissions.md lists the permissions that are needed. {_GOES_ON}",
        )
    if code in _FULL:
        return TransientError(
            f"{service} has no more room for this account.",
            detail,
            "Wait until other jobs have ended, or ask AWS for a higher quota.",
        )
    if "Throttl" in code or code == "TooManyRequestsException" or status >= 500:
        return TransientError(f"{service} is busy.", detail, _GOES_ON)
    return ConfigError(f"{service} refuses the request.", detail, "Correct what the message names in the launcher.")


def expired(detail: str) -> TransientError:
    """Return the error of credentials that ended before the job did."""
    return TransientError(
        "The credentials for AWS have expired.",
        detail,
        "Let the connection assume a role (role_arn in its extra), which is renewed by itself, rather than carry a "
        f"session token. {_GOES_ON}",
    )
