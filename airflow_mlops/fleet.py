"""A fleet: one pipeline for each member, such as a country, made from one base; and a new version tried on one first.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PlainValidator

from airflow_mlops.changes import changed, check_features
from airflow_mlops.exceptions import ConfigError, MlopsError, did_you_mean
from airflow_mlops.pipeline import ModelPipeline
from airflow_mlops.typed import is_name, part

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.feeds import Feed

MEMBER = "{member}"
"""In a text of ``each``: stands for the member's name."""


def _members(given: Any) -> Any:
    """Return the members as they are given: names, or name → changes."""
    named = isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)
    if named or (isinstance(given, Mapping) and all(isinstance(one, Mapping) for one in given.values())):
        return given
    raise ConfigError(
        f"members={given!r} are no members of a fleet.",
        hint=f"Write members={[given] if isinstance(given, str) else ['de', 'it']}; or, with changes of one alone, "
        'members={"de": {}, "it": {"window": "90d"}}.',
    )


@part
class Fleet:
    """One pipeline for each member: model ``<base>_<member>``, with DAGs, versions, halts and failures of its own.

    ::

        fleet = Fleet(
            churn,
            members=["de", "it", "pl"],
            each={"source": {"uri": "lake/{member}/orders", "dataset": "orders_{member}"}},
            first="de",
        )
        globals().update(fleet.dags())

    :param base: What members have in common. It gives the fleet its name, and is no member itself.
    :param members: Names; or name → changes of this member alone, as :meth:`ModelPipeline.derive` takes them.
    :param each: Changes of every member; ``{member}`` in its texts is the member's name.
    :param first: Member that is trained and deployed before all others, by the DAG ``<base>.rollout``. The ``cron`` of
        ``base`` is then the schedule of that DAG, and no member's. New code is trained for no other member by its own
        triggers before a version of the first has passed its gates with it. Empty: each member for itself.
    :raises ConfigError: when a name is there twice, or is none, or ``first`` is no member.
    """

    base: ModelPipeline
    members: Annotated[Sequence[str] | Mapping[str, Mapping[str, Any]], PlainValidator(_members)]
    each: Mapping[str, Any] = Field(default_factory=dict)
    first: str = ""

    def __post_init__(self) -> None:
        names = list(self.members)
        if not names:
            raise ConfigError(f"Fleet {self.base.model!r} has no members.", hint='Name them: members=["de", "it"].')
        for name in names:
            if not name:
                raise ConfigError(
                    f"A member of fleet {self.base.model!r} has no name.",
                    detail=f"members: {', '.join(map(repr, names))}",
                    hint="Name it, or leave it out.",
                )
            is_name(self.model_of(name))
        if twice := next((name for name, count in Counter(names).items() if count > 1), ""):
            raise ConfigError(
                f"Member {twice!r} of fleet {self.base.model!r} is there twice.",
                detail=f"members: {', '.join(names)}",
                hint="Leave one out, or give it another name.",
            )
        if self.first and self.first not in names:
            raise ConfigError(
                f"Fleet {self.base.model!r} has no member {self.first!r} to be the first."
                f"{did_you_mean(self.first, names)}",
                detail=f"members: {', '.join(names)}",
                hint="Name a member in first=, or leave it out.",
            )
        if self.first and len(names) == 1:
            raise ConfigError(
                f"Fleet {self.base.model!r} has one member only: nobody follows the first.",
                detail=f"members={names}, first={self.first!r}",
                hint="Leave first out, or name more members.",
            )

    def model_of(self, member: str) -> str:
        """Return the name of a member's model."""
        return f"{self.base.model}_{member}"

    def pipelines(self) -> tuple[dict[str, ModelPipeline], dict[str, MlopsError]]:
        """Return member → its pipeline; and member → what is wrong with its configuration, of those that have none."""
        made: dict[str, ModelPipeline] = {}
        faults: dict[str, MlopsError] = {}
        feeds: dict[str, tuple[str, Feed]] = {}
        services: dict[str, ModelPipeline] = {}
        for member in self.members:
            try:
                pipeline = self._pipeline(member)
                check_features(services.get(pipeline.features.name, pipeline), pipeline)
                _check_datasets(member, pipeline, feeds)
                services.setdefault(pipeline.features.name, pipeline)
                made[member] = pipeline
            except MlopsError as error:
                faults[member] = error
        return made, faults

    def pipeline(self, member: str) -> ModelPipeline:
        """Return the pipeline of a member.

        :raises MlopsError: when there is no such member, or its configuration is wrong.
        """
        if member not in self.members:
            raise ConfigError(
                f"Fleet {self.base.model!r} has no member {member!r}.{did_you_mean(member, self.members)}",
                detail=f"members: {', '.join(self.members)}",
                hint="Name one of them; to a command, as dags/file.py:fleet.member.",
            )
        made, faults = self.pipelines()
        if member in faults:
            raise faults[member]
        return made[member]

    def dags(self) -> dict[str, DAG]:
        """Return the DAGs of all members by a Python name, for ``globals().update(...)`` in a DAG file.

        A member whose configuration is wrong keeps no other from having its DAGs: it has one alone,
        ``<base>_<member>.config_error``, which fails once a day and says what is wrong.
        """
        from airflow_mlops.templates.fleet import build_fleet

        return build_fleet(self)

    def _pipeline(self, member: str) -> ModelPipeline:
        own = self.members[member] if isinstance(self.members, Mapping) else {}
        if "model" in {**self.each, **own}:
            raise ConfigError(
                f"The changes of member {member!r} name a model.",
                detail=f"its model is {self.model_of(member)!r}",
                hint="Leave it out: each member has a model of its own, named by the fleet and the member.",
            )
        common = _filled(self.each, member)
        if self.first and self.base.retrain.cron is not None:
            common = _merged({"retrain": {"cron": None}}, common)
        return changed(self.base, {"model": self.model_of(member), **_merged(common, own)})


def _filled(value: Any, member: str) -> Any:
    """Return a value with the member's name in its texts."""
    if isinstance(value, str):
        return value.replace(MEMBER, member)
    if isinstance(value, Mapping):
        return {key: _filled(one, member) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(one, member) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        filled = {name: _filled(one, member) for name, one in fields.items()}
        return value if filled == fields else dataclasses.replace(value, **filled)
    return value


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes of which the own ones count, also within a part."""
    both = {**common, **own}
    for name, value in own.items():
        if isinstance(value, Mapping) and isinstance(common.get(name), Mapping):
            both[name] = _merged(common[name], value)
    return both


def _check_datasets(member: str, pipeline: ModelPipeline, feeds: dict[str, tuple[str, Feed]]) -> None:
    """Refuse a dataset that another member takes from elsewhere: both would seal their data into one.

    :param feeds: Dataset → the member that has it, and its feed; those of this one are added.
    """
    for feed in pipeline.feeds:
        other, theirs = feeds.get(feed.dataset, (member, feed))
        if theirs != feed:
            raise ConfigError(
                f"Members {other!r} and {member!r} have different feeds of one name, {feed.dataset!r}.",
                detail="both would be sealed as one dataset",
                hint="Tell them apart, as by each={'source': {'dataset': '" + feed.dataset + "_{member}'}}.",
            )
    feeds.update({feed.dataset: (member, feed) for feed in pipeline.feeds})
