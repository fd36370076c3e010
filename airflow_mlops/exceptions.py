"""Errors a user sees: what happened, where, and how to fix it.

Two families, because Airflow must treat them differently: a :class:`ConfigError` or a :class:`DataError`
will fail again however often it is retried; a :class:`TransientError` may not.
"""

from __future__ import annotations

from collections.abc import Iterable


class MlopsError(Exception):
    """Base of every error that this package raises on purpose.

    :param headline: What happened, in one line.
    :param detail: Where: the values, names and counts involved. Never raw data or secrets.
    :param hint: How to fix it.
    """

    retryable = False

    def __init__(self, headline: str, detail: str = "", hint: str = "") -> None:
        self.headline = headline
        self.detail = detail
        self.hint = hint
        super().__init__(headline, detail, hint)

    def __str__(self) -> str:
        lines = [self.headline]
        if self.detail:
            lines.append(f"  where: {self.detail}")
        if self.hint:
            lines.append(f"  fix:   {self.hint}")
        return "\n".join(lines)


class ConfigError(MlopsError):
    """What the user wrote cannot work: a key, a connection, a name. Retrying cannot help."""


class DataError(MlopsError):
    """The data is not what was promised: missing, empty, out of bounds, refused by a suite."""


class GateError(MlopsError):
    """A model or a deployment step did not pass its gate; what serves stays as it is."""


class TrainingError(MlopsError):
    """The user's model code, or the training around it, failed."""


class TransientError(MlopsError):
    """Something outside did not answer. The same call may work later, so Airflow retries it."""

    retryable = True


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` (with its leading space), or an empty string when nothing is close.

    >>> did_you_mean("lable", ["label", "train"])
    " Did you mean 'label'?"
    """
    import difflib

    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
