"""Where SageMaker looks for the reason of a failure: it shows the file's first 1024 characters."""

from __future__ import annotations

import contextlib
from pathlib import Path

OUTPUT = Path("/opt/ml/output")


def say_failure(words: str, output: Path = OUTPUT) -> None:
    """Say why a training failed, where this is a machine of SageMaker's."""
    if output.is_dir():
        with contextlib.suppress(OSError):  # of another user: the log has the same words
            (output / "failure").write_text(words)
