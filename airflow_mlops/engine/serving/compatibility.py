"""Whether a server's TensorFlow can load what another TensorFlow has trained.

TensorFlow's own rules (its guide "TensorFlow version compatibility"): a SavedModel of one version loads in every later
one up to the end of the next major version. An older one may load it, as long as it has all of its operations; across
major versions nothing is promised.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from airflow_mlops.exceptions import GateError

_MANIFEST = Path("assets.extra") / "manifest.json"

_log = logging.getLogger(__name__)


def trained_with(saved_model: Path) -> str | None:
    """Return the version of TensorFlow that made a SavedModel, by its manifest; None when it does not say."""
    try:
        versions = json.loads((saved_model / _MANIFEST).read_bytes())["versions"]
    except (OSError, ValueError, KeyError):
        return None
    return versions.get("tensorflow")


def check_server(server: str, serves_with: str | None, trained: str | None) -> None:
    """Refuse a server of an older major version than the trainer's; warn of an older minor one, or an unknown one.

    Behind a warning stands the proof: the version is loaded on that server, and asked its golden questions there,
    before callers get it.

    :param server: Name of the server, for the words.
    :param serves_with: The server's version of TensorFlow; None when it does not say.
    :raises GateError: when nothing promises that the server can load it.
    """
    if trained is None:
        return
    if serves_with is None:
        _log.warning(
            "Which TensorFlow %r serves with is not known, so it is not compared with the trainer's %s. Set "
            "tensorflow_version of the connection.",
            server,
            trained,
        )
        return
    ours, theirs = _release(trained), _release(serves_with)
    if theirs[0] < ours[0] or theirs[0] > ours[0] + 1:
        raise GateError(
            f"The server's TensorFlow {serves_with} need not load a model of TensorFlow {trained}.",
            detail=f"server {server!r}; SavedModels load within a major version and in the next one",
            hint="Upgrade the server, or train with its major version. If the server is upgraded already, correct "
            "tensorflow_version of its connection.",
        )
    if theirs < ours:
        _log.warning(
            "Server %r has TensorFlow %s, older than the %s that trained the model: it loads only if it has all "
            "operations of the model. It is tried before callers get it.",
            server,
            serves_with,
            trained,
        )


def _release(version: str) -> tuple[int, int]:
    """Return major and minor; patch releases change no file format."""
    major, minor, *_ = [int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")] + [0]
    return major, minor
