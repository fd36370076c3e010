"""Feast's DynamoDB online store with credentials of its own, and with its timeouts kept on every call.

Feast's store takes the credentials of the machine, and gives its timeouts to its asynchronous client alone: a table
that does not answer would hold a task for many minutes. Named in settings as ``dynamodb``, as Feast's is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast.infra.online_stores import dynamodb
from pydantic import Field, SecretStr

if TYPE_CHECKING:
    from feast import RepoConfig


class DynamoDBOnlineStoreConfig(dynamodb.DynamoDBOnlineStoreConfig):
    """The settings of Feast's store, and credentials: without them, those of the machine are used.

    ``verify`` is False, or the file with the certificates to trust, as in boto3.
    """

    type: str = "dynamodb"  # Feast's allows this one word, and finds our class by its full name
    aws_access_key_id: SecretStr | None = Field(default=None, repr=False)
    aws_secret_access_key: SecretStr | None = Field(default=None, repr=False)
    aws_session_token: SecretStr | None = Field(default=None, repr=False)
    verify: bool | str | None = None


class DynamoDBOnlineStore(dynamodb.DynamoDBOnlineStore):
    """Feast's store; its clients are made here, the first time that a call brings the settings."""

    _settings: DynamoDBOnlineStoreConfig
    _dynamodb_client: Any
    _dynamodb_resource: Any

    def update(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._connect(config)
        super().update(config, *args, **kwargs)

    def teardown(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._connect(config)
        super().teardown(config, *args, **kwargs)

    def online_write_batch(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._connect(config)
        super().online_write_batch(config, *args, **kwargs)

    def online_read(self, config: RepoConfig, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        self._connect(config)
        return super().online_read(config, *args, **kwargs)

    def update_online_store(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._connect(config)
        super().update_online_store(config, *args, **kwargs)

    async def initialize(self, config: RepoConfig) -> None:  # noqa: D102
        self._settings = config.online_store
        await super().initialize(config)

    async def online_write_batch_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._settings = config.online_store
        await super().online_write_batch_async(config, *args, **kwargs)

    async def online_read_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        self._settings = config.online_store
        return await super().online_read_async(config, *args, **kwargs)

    async def update_online_store_async(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        self._settings = config.online_store
        await super().update_online_store_async(config, *args, **kwargs)

    def _connect(self, config: RepoConfig) -> None:
        if self._dynamodb_client is not None and self._dynamodb_resource is not None:
            return
        import boto3
        from botocore.config import Config
        from feast.utils import get_user_agent

        settings = self._settings = config.online_store
        key, secret, token = _credentials(settings)
        session = boto3.Session(aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token)
        retries = {"total_max_attempts": settings.total_max_retry_attempts, "mode": settings.retry_mode}
        options: dict[str, Any] = {
            "region_name": settings.region,
            "endpoint_url": settings.endpoint_url,
            "verify": settings.verify,
            "config": Config(
                user_agent=get_user_agent(),
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                max_pool_connections=settings.max_pool_connections,
                retries={name: value for name, value in retries.items() if value is not None},
            ),
        }
        self._dynamodb_client = session.client("dynamodb", **options)
        self._dynamodb_resource = session.resource("dynamodb", **options)

    def _get_aioboto_session(self) -> Any:
        fresh = self._aioboto_session is None
        session = super()._get_aioboto_session()
        key, secret, token = _credentials(self._settings)
        if fresh and key is not None:
            session.set_credentials(key, secret, token)
        return session


def _credentials(settings: DynamoDBOnlineStoreConfig) -> tuple[str | None, str | None, str | None]:
    secrets = (settings.aws_access_key_id, settings.aws_secret_access_key, settings.aws_session_token)
    key, secret, token = (None if value is None else value.get_secret_value() for value in secrets)
    return key, secret, token
