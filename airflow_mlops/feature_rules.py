"""How strictly the definitions of a Feast repository are looked at before they are applied."""

from __future__ import annotations

from typing import Literal

from airflow_mlops.typed import part

Strictness = Literal["block", "warn", "off"]


@part
class FeatureRules:
    """Put one into a Python file of the feature repository, under any name: ``rules = FeatureRules(owner="block")``.

    What a repository lacks that was not made for this package is a warning by default. ``block`` refuses to apply it,
    ``off`` says nothing. Names that no file or online table can hold, and what would break a served model, are always
    refused.

    :param owner: A view or service without the tag ``owner``.
    :param tags: A tag whose name is one of ours, or nearly, and whose value cannot be read; it counts as not there. The
        names are those of :mod:`airflow_mlops.engine.features.governance.tags`.
    :param doubles: A service with two features of the same name: it can be applied, and not be trained on or served.
    """

    owner: Strictness = "warn"
    tags: Strictness = "warn"
    doubles: Strictness = "warn"
