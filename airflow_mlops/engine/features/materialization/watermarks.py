"""How far each feature view is online, in the ledger: what is done, what is missing, and from which files.

Pointer ``feature_watermark:<project>:<view>``. The watermark, ``until``, moves forward only, and only over time
that was written without a gap. What was finished beyond a gap waits in ``ahead``; the gap stays visible and is
planned again until it is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.partitioning import DAILY, Partitioning


@dataclass(frozen=True)
class Watermark:
    """What of a feature view is online.

    :param until: Everything stamped before it that may still be served is online; None when nothing is.
    :param ahead: Spans beyond it that are online too: before each of them lies a gap.
    :param files: Day → first 16 characters of the SHA-256 of the file that it was written from, for the days whose
        values may still be served.
    :param parts: Day → the same of a file, and the spans of the day that were written from it so far.
    :param code: Identity of the code that computed the newest day; None when its file does not say.
    :param store: Identity of the online store that it speaks of, without its secrets.
    :param partitioning: How the files are cut.
    """

    until: datetime | None = None
    ahead: tuple[Span, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[str, tuple[Span, ...]]] = field(default_factory=dict)
    code: str | None = None
    store: str | None = None
    partitioning: Partitioning = DAILY

    @property
    def gaps(self) -> tuple[Span, ...]:
        """What is missing before the newest value that is online."""
        starts = [self.until or self.ahead[0][0], *(end for _, end in self.ahead)] if self.ahead else []
        return tuple((end, start) for end, (start, _) in zip(starts, self.ahead, strict=False) if end < start)

    @property
    def newest(self) -> datetime | None:
        """The end of the newest span that is online."""
        return self.ahead[-1][1] if self.ahead else self.until

    def missing(self, start: datetime, end: datetime) -> list[Span]:
        """Return what of a span is not online."""
        at = start if self.until is None else max(start, self.until)
        found = []
        for first, last in self.ahead:
            if at < min(first, end):
                found.append((at, min(first, end)))
            at = max(at, last)
        if at < end:
            found.append((at, end))
        return found

    def written_from(self, day: str, digest: str) -> tuple[Span, ...]:
        """Return the spans of a day that are online from exactly this file."""
        if self.files.get(day) == digest:
            return (self.partitioning.interval(day),)
        known, spans = self.parts.get(day, ("", ()))
        return spans if known == digest else ()

    def with_written(
        self, span: Span, *, since: datetime, files: Mapping[str, str], code: str | None, ttl: timedelta | None
    ) -> Watermark:
        """Return what is online once a span was written.

        :param since: Nothing stamped before it can be served any more, or was ever computed: no gap begins there.
        :param files: Day → identity of the file, for the days that the span was read from.
        :param code: Identity of the code that computed the last of them.
        :param ttl: How long values may be served; what is older is forgotten.
        """
        front = since if self.until is None else max(self.until, since)
        until, ahead = self.until, []
        for start, end in merged([*self.ahead, span]):
            if start <= front:
                until = front = max(front, end)
            else:
                ahead.append((start, end))
        made = replace(self, until=until, ahead=tuple(ahead), **self._files_with(span, since, files))
        if self.newest is None or span[1] >= self.newest:
            made = replace(made, code=code)
        return made._without_expired(ttl)

    def _files_with(self, span: Span, since: datetime, files: Mapping[str, str]) -> dict[str, Any]:
        whole, parts = dict(self.files), dict(self.parts)
        for day, digest in files.items():
            start, end = self.partitioning.interval(day)
            done = merged([*self.written_from(day, digest), span])
            if any(first <= max(start, since) and last >= end for first, last in done):
                whole[day] = digest
                parts.pop(day, None)
            else:
                whole.pop(day, None)
                parts[day] = digest, tuple((max(first, start), min(last, end)) for first, last in done)
        return {"files": whole, "parts": parts}

    def _without_expired(self, ttl: timedelta | None) -> Watermark:
        if ttl is None or self.newest is None:
            return self
        alive, interval = self.newest - ttl, self.partitioning.interval
        return replace(
            self,
            files={day: digest for day, digest in self.files.items() if interval(day)[1] > alive},
            parts={day: part for day, part in self.parts.items() if interval(day)[1] > alive},
        )

    def to_value(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        value: dict[str, Any] = {
            "until": self.until.isoformat() if self.until else None,
            "ahead": _to_texts(self.ahead),
            "files": dict(sorted(self.files.items())),
            "code": self.code,
            "store": self.store,
        }
        if self.partitioning != DAILY:
            value["partitioning"] = str(self.partitioning)
        if self.parts:
            value["parts"] = {day: [digest, _to_texts(spans)] for day, (digest, spans) in sorted(self.parts.items())}
        return value

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Watermark:
        """Return what the ledger keeps; the first releases kept ``until`` alone."""
        if value is None:
            return cls()
        return cls(
            until=datetime.fromisoformat(value["until"]) if value["until"] else None,
            ahead=_to_spans(value.get("ahead", ())),
            files=value.get("files", {}),
            parts={day: (digest, _to_spans(spans)) for day, (digest, spans) in value.get("parts", {}).items()},
            code=value.get("code"),
            store=value.get("store"),
            partitioning=Partitioning.parse(value.get("partitioning", "daily")),
        )


def watermarks(ledger: Ledger, project: str, views: Iterable[str]) -> dict[str, Watermark]:
    """Return feature view → how far it is online, from the ledger alone.

    :raises TransientError: when the ledger does not answer.
    """
    return {
        view: Watermark.of(p.value if (p := ledger.pointer(pointer_name(project, view))) else None) for view in views
    }


def forget(ledger: Ledger, project: str, view: str) -> None:
    """Set a view's watermark back to nothing: its values online were lost, or are of another definition.

    :raises TransientError: when the ledger does not answer.
    """
    ledger.move(pointer_name(project, view), lambda value: None if value is None else Watermark().to_value())


def pointer_name(project: str, view: str) -> str:
    """Return the name of the ledger's pointer for a feature view."""
    return f"feature_watermark:{project}:{view}"


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, with those that touch or overlap made one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _to_texts(spans: Iterable[Span]) -> list[list[str]]:
    return [[start.isoformat(), end.isoformat()] for start, end in spans]


def _to_spans(texts: Iterable[Iterable[str]]) -> tuple[Span, ...]:
    pairs = (tuple(datetime.fromisoformat(text).astimezone(UTC) for text in pair) for pair in texts)
    return tuple((start, end) for start, end in pairs)
