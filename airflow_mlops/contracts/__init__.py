"""The typed records that pass between the parts: what each says, and nothing else.

Every record is frozen, refuses unknown fields, and travels as JSON (``to_json`` / ``from_json``). Times are
timezone-aware UTC. Paths are strings, local or URI. The rules that go with each record are in
``docs/contracts.md``.
"""

from __future__ import annotations

from airflow_mlops.contracts.data import (
    Announcement,
    ColumnKind,
    ColumnProfile,
    Exclusion,
    ExpectationOutcome,
    Halt,
    Partition,
    PartitionFile,
    Profile,
    Receipt,
    Severity,
    SliceProfile,
    ValidationResult,
)
from airflow_mlops.contracts.models import (
    Deployment,
    EvaluatedHead,
    Evaluation,
    FeatureParity,
    GateCheck,
    ModelManifest,
    ParityReport,
    Pin,
    Predicted,
    RegisteredModel,
    Verdict,
    VerdictStatus,
)
from airflow_mlops.contracts.record import Record, content_hash
from airflow_mlops.contracts.training import (
    Compute,
    HeadRows,
    Signature,
    Snapshot,
    Split,
    SplitName,
    SplitRule,
    Target,
    TensorSpec,
    TrainingProgress,
    TrainingResult,
    TrainingSpec,
)

__all__ = [
    "Announcement",
    "ColumnKind",
    "ColumnProfile",
    "Compute",
    "Deployment",
    "EvaluatedHead",
    "Evaluation",
    "Exclusion",
    "ExpectationOutcome",
    "FeatureParity",
    "GateCheck",
    "Halt",
    "HeadRows",
    "ModelManifest",
    "ParityReport",
    "Partition",
    "PartitionFile",
    "Pin",
    "Predicted",
    "Profile",
    "Receipt",
    "Record",
    "RegisteredModel",
    "Severity",
    "Signature",
    "SliceProfile",
    "Snapshot",
    "Split",
    "SplitName",
    "SplitRule",
    "Target",
    "TensorSpec",
    "TrainingProgress",
    "TrainingResult",
    "TrainingSpec",
    "ValidationResult",
    "Verdict",
    "VerdictStatus",
    "content_hash",
]
