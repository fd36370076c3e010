"""What every record has: frozen, known fields only, JSON there and back."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


def content_hash(value: Any) -> str:
    """Return the SHA-256 hex digest of a JSON-able value, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Record(BaseModel):
    """A frozen JSON record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    def to_json(self) -> str:
        """Return the record as indented JSON text."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a record back. Raises ``pydantic.ValidationError`` on anything unknown or missing."""
        return cls.model_validate_json(text)
