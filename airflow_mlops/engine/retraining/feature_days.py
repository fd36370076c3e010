"""The computed features that a version reads, day by day, as drift looks at them: by profiles, each made once.

A day's profile lies beside its file of rows, where the checks of feature views keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from airflow_mlops.contracts import Profile, Snapshot
from airflow_mlops.engine.data.files import replacing
from airflow_mlops.engine.data.partitions import parse_profile
from airflow_mlops.engine.data.profiles import profile_files
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.computing.files import pinned_paths, revision_of
from airflow_mlops.engine.features.project.schema import feature_file, partitioning_of
from airflow_mlops.partitioning import Partitioning

PREFIX = "features."
"""What the name of a view begins with, beside the datasets of feeds."""


class FeatureDays:
    """Days of stored feature views.

    :param home: The home folder.
    :param read: What a version reads: ``view:feature``.
    """

    def __init__(self, home: Path, read: Iterable[str]) -> None:
        self.home = home
        self.columns: dict[str, set[str]] = {}
        for one in read:
            view, colon, name = one.partition(":")
            if colon:
                self.columns.setdefault(f"{PREFIX}{view}", set()).add(name)

    def partitioning(self, dataset: str) -> Partitioning:
        """Return how the rows of a view are cut into files."""
        return partitioning_of(self.home, dataset.removeprefix(PREFIX))

    def after(self, dataset: str, key: str) -> dict[str, str]:
        """Return key → mark of the days after one that are computed. A mark is another one once its file is.

        :raises TransientError: when the storage does not answer.
        """
        view = dataset.removeprefix(PREFIX)
        fetch_views(self.home, [view])
        files = feature_file(self.home, view, "*").parent.glob("[!.]*.parquet")
        marks = {}
        for file in sorted(one for one in files if one.stem > key):
            found = file.stat()
            marks[file.stem] = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        return marks

    def profiles(self, dataset: str, keys: Iterable[str]) -> dict[str, Profile]:
        """Return the profiles of days as they are now."""
        view = dataset.removeprefix(PREFIX)
        files = ((key, feature_file(self.home, view, key)) for key in keys)
        return {key: self._profile(view, key, file, revision_of(file)) for key, file in files}

    def pinned(self, snapshot: Snapshot, dataset: str, keys: Iterable[str]) -> list[Profile]:
        """Return the profiles of days as a snapshot was made of them.

        :raises DataError: when a file is gone.
        """
        view = dataset.removeprefix(PREFIX)
        pins = {key: snapshot.feature_files[view][key] for key in keys}
        fetch_views(self.home, [view])
        paths: Mapping[str, Path] = pinned_paths(self.home, {view: pins}).get(view, {})
        return [self._profile(view, key, paths[key], revision) for key, revision in pins.items()]

    def _profile(self, view: str, key: str, file: Path, revision: str) -> Profile:
        kept = feature_file(self.home, view, key).parent / "profiles" / f"{key}.json"
        if kept.exists():
            profile = parse_profile(kept.read_bytes())
            if profile.revisions == {key: revision}:
                return profile
        cut = partitioning_of(self.home, view)
        profile = profile_files([file], dataset=view, key=key, revision=revision, partitioning=cut)
        if not kept.exists():
            with replacing(kept) as made:
                made.write_text(profile.to_json())
        return profile
