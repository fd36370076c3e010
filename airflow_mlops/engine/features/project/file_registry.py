"""Feast's registry in a file, replaced in one rename: Feast empties the file before it writes, under its readers."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from feast.infra.registry.file import FileRegistryStore
from feast.utils import _utc_now

from airflow_mlops.engine.data.files import replacing

if TYPE_CHECKING:
    from feast.protos.feast.core.Registry_pb2 import Registry


class AtomicFileRegistryStore(FileRegistryStore):
    """Feast's store; a reader sees all of the old registry or all of the new one."""

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(_utc_now())
        with replacing(self._filepath) as made:
            made.write_bytes(registry_proto.SerializeToString())
