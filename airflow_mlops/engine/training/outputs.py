"""What the outputs of a model are called: as a caller of the SavedModel sees them.

The label's is called as its problem type says, such as ``probability``. Those of a head have its name before it, such
as ``refund_prediction``, or ``reason_probabilities`` and ``reason_class``. No output of a problem type has an
underscore, so no two are called alike.
"""

from __future__ import annotations

from airflow_mlops.contracts import Snapshot
from airflow_mlops.problems import problem_named

CLASS = "class"
"""Output that says which class is the likeliest, of a label of classes."""


def outputs_of(snapshot: Snapshot) -> dict[str, str]:
    """Return label → output that predicts it; the label first, and then the heads."""
    return {name: called(snapshot, name, problem_named(one.problem).output) for name, one in snapshot.targets.items()}


def called(snapshot: Snapshot, label: str, output: str) -> str:
    """Return what an output of a label is called."""
    return output if label == snapshot.label else f"{label}_{output}"
