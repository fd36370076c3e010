"""The files of a new project, from templates."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.project.plan import Plan, used

if TYPE_CHECKING:
    from jinja2 import Environment

    from airflow_mlops.engine.survey.columns import Survey

_TEMPLATES = Path(__file__).parent / "files"
_SHARED = 0.05
"""Share of all rows that must have a value for it to name nobody."""
_LOSSES = {
    "binary": "binary_crossentropy",
    "multiclass": "sparse_categorical_crossentropy",
    "regression": "mse",
}
_CUTS = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}


def files(plan: Plan) -> dict[str, str]:
    """Return the path of each file of a project, relative to its folder → its text."""
    name = plan.name
    wanted = {
        f"dags/{name}.py": "pipeline.py",
        f"dags/{name}_data.py": "data.py",
        f"dags/{name}_model.py": "boosted.py" if plan.model == "boosted" else "model.py",
        "feature_repo/feature_store.yaml": "feature_store.yaml",
        "feature_repo/definitions.py": "definitions.py",
        f"feature_repo/{name}_features.py": "features.py",
        f"tests/test_{name}.py": "tests.py",
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
    }
    environment = _environment()
    said = _said(plan)
    return {path: environment.get_template(f"{template}.jinja").render(said) for path, template in wanted.items()}


def check_free(folder: Path) -> None:
    """Refuse a project folder that is there already.

    :raises ConfigError: when it is.
    """
    if folder.exists():
        raise ConfigError(
            f"There is a folder {folder.name!r} already, and nothing in it is overwritten.",
            detail=str(folder.resolve()),
            hint="Choose another name, or move it away.",
        )


def write(plan: Plan, folder: Path) -> None:
    """Write the files of a project below a folder."""
    for path, text in files(plan).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
    )
    made.filters["py"] = _python
    made.filters["line"] = _line
    return made


def _python(value: Any) -> str:
    """Return a value as it is written in Python, texts in double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_python(name)}: {_python(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _line(value: str) -> str:
    """Return a text that cannot end the comment or the cell that it stands in: headers of files are anybody's."""
    return " ".join(value.split()).replace("`", "'").replace("|", "/")


def _said(plan: Plan) -> dict[str, Any]:
    """Return what the templates speak of."""
    survey, feed = plan.survey, plan.feed
    kinds = {one.name: str(one.type) for one in survey.columns}
    return {
        "plan": plan,
        "survey": survey,
        "feed": feed,
        "name": plan.name,
        "owner": plan.owner,
        "problem": survey.problem.name,
        "key_is_text": kinds.get(survey.key) == "string",
        "contract": [(name, _contract_type(name, kinds[name], plan)) for name in used(survey)],
        "left_out": [one for one in survey.columns if not one.use],
        "doubtful": [one for one in survey.columns if one.use == "input" and one.why],
        "asked": shlex.join(f"{name}={_example(survey, name)}" for name in filter(None, [survey.key, *survey.inputs])),
        "query": feed.query.replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        "known_on_a_date": kinds.get(survey.known_at, "").startswith("date"),
        "partitioning": feed.partitioning,
        "zone": feed.partitioning.timezone,
        "booster": f"HistGradientBoosting{'Regressor' if survey.problem.name == 'regression' else 'Classifier'}",
        "loss": _LOSSES[survey.problem.name],
        "cut": _CUTS[feed.partitioning.every],
        **_of_tests(plan),
    }


def _of_tests(plan: Plan) -> dict[str, Any]:
    """Return the rows that the project's test makes up: days before a partition begins, and labels."""
    survey, cut = plan.survey, plan.feed.partitioning
    values = {"binary": (True, False), "regression": (2.0, 4.0)}.get(survey.problem.name, survey.classes[:2])
    return {
        "test_day": cut.floor(cut.first(plan.last)).astimezone(ZoneInfo(cut.timezone)).date(),
        "test_long": survey.matures_after.days + 2,
        "test_short": 0.5,
        "label_values": values,
        "label_first": 2.0 if survey.problem.name == "regression" else 1.0,
    }


def _contract_type(name: str, kind: str, plan: Plan) -> str:
    """Return the type of a column in the contract. Inputs are floats: of those some may be missing."""
    if kind.startswith("timestamp"):
        return "TIME"
    number = kind.startswith(("int", "uint", "float", "double", "decimal", "halffloat"))
    return "double" if name in plan.survey.inputs and number else kind


def _example(survey: Survey, name: str) -> str:
    """Return a value to ask with: of numbers the middle, else the most frequent, if nobody is named by it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = survey.rows[name].drop_null()
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return f"{float(pc.approximate_median(column.cast(pa.float64())).as_py()):.4g}"
    counts = pc.value_counts(column).to_pylist()
    most = max(counts, key=lambda one: one["counts"])
    if name == survey.key and most["counts"] < _SHARED * len(column):
        return "0" if pa.types.is_integer(column.type) else "ID"
    return str(most["values"]).lower() if pa.types.is_boolean(column.type) else str(most["values"])
