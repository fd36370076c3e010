"""A model's transform: what its features go through before it is asked, shipped inside its SavedModel.

::

    transform = load_transform("/srv/models/churn/7")  # None: the model takes the features themselves
    inputs = transform({"price": [40.0], "city": ["Bonn"]})

``assets.extra/transform/`` holds the Python files as they lay beside the DAG file, and ``transform.json``: which
function it is, the checksums of the files, and what the function takes. It needs NumPy, and what the function imports.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from airflow_mlops.engine.serving.shipped_code import load_shipped, shipped_file
from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import DataError, MlopsError, TransientError, did_you_mean

TRANSFORM = Path("assets.extra") / "transform"
TOLD = "transform.json"
_NAMING = (Path("assets.extra") / "golden.json", Path("assets.extra") / "manifest.json")
"""Files that name the transform of a model: who loses its folder has those."""

Columns = dict[str, np.ndarray]

_RETURN = (
    "It is given name → NumPy array, one value a row, and returns the same for what the model takes, of the same rows "
    "in the same order: numbers, truth values, text, or a matrix with a line a row."
)
_LARGEST = np.iinfo(np.int64).max


class Transform:
    """The transform of one model. Thread-safe, as far as its function is.

    :param folder: With :data:`TOLD` and the files.
    :raises DataError: when it is not as it was shipped, or imports what is not installed here.
    """

    def __init__(self, folder: Path) -> None:
        try:
            told = json.loads((folder / TOLD).read_bytes())
            self.function: str = told["function"]
            self.inputs: dict[str, dict[str, Any]] = told["inputs"]
            """What it takes: name → ``dtype`` and ``shape``, as a signature has them."""
            digests: dict[str, str] = told["files"]
            files = {name: (folder / name).read_bytes() for name in digests}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "The model's transform cannot be read.",
                detail=f"{folder}: {type(error).__name__}",
                hint="Its files belong to the model: fetch or publish the version again.",
            ) from None
        if changed := [name for name, content in files.items() if hashlib.sha256(content).hexdigest() != digests[name]]:
            raise DataError(
                f"The model's transform was changed after it was shipped: {changed[0]}.",
                detail=f"{folder}: {len(changed)} of {len(files)} files differ from their checksums",
                hint="Fetch or publish the version again. Another transform is another model: train it.",
            )
        self.identity = hashlib.sha256(json.dumps([self.function, sorted(digests.items())]).encode()).hexdigest()
        """The hash of what it does, as far as that is its own code."""
        self._call = self._load(files)

    def __call__(self, columns: Mapping[str, Any]) -> Columns:
        """Return what the model takes, for some rows of features.

        :param columns: Name → one value a row, for each of :attr:`inputs`. A missing float is NaN, a missing text "".
        :returns: Numbers as ``float32`` or ``int64``, truth values as ``bool``, text as ``object``.
        :raises DataError: when a column is missing, unknown or of another type, or the function fails or returns
            something else.
        :raises TransientError: when what the function reaches for does not answer.
        """
        given = self._given(columns)
        rows = len(next(iter(given.values())))
        try:
            made = self._call(given)
        except MlopsError:
            raise
        except Exception as error:
            raise self._raised(error) from None  # what it says may hold a row's value
        return self._checked(made, rows)

    def _load(self, files: Mapping[str, bytes]) -> Callable[[Columns], Any]:
        module, _, name = self.function.partition(":")
        try:
            loaded = load_shipped(self.identity[:16], files, module)
        except ImportError as error:
            raise DataError(
                f"The transform {self.function!r} imports what is not here: {error.name or 'a name'}.",
                detail=f"{str(error).splitlines()[0]}; its own files are: {', '.join(sorted(files))}",
                hint="Install it wherever the model is asked. Only Python files beside the DAG file that are imported "
                "by name are shipped with it.",
            ) from None
        except MlopsError:
            raise
        except Exception as error:
            raise self._raised(error) from None
        found = getattr(loaded, name, None)
        if not callable(found):
            raise DataError(
                f"The transform {self.function!r} is no function.{did_you_mean(name, vars(loaded))}",
                detail=f"module {module!r} has {'no such name' if found is None else type(found).__name__}",
                hint="Name a function as module:function.",
            )
        function: Callable[[Columns], Any] = found
        return function

    def _given(self, columns: Mapping[str, Any]) -> Columns:
        missing, unknown = (
            [name for name in self.inputs if name not in columns],
            sorted(set(columns) - set(self.inputs)),
        )
        if missing or unknown:
            raise DataError(
                "The columns are not those that the transform takes."
                + "".join(did_you_mean(name, missing) for name in unknown[:1]),
                detail=f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}",
                hint=f"It takes {', '.join(self.inputs)}.",
            )
        # Copies: a function that writes to what it is given changes nothing of the caller's.
        given = {name: _as_told(name, columns[name], told["dtype"]) for name, told in self.inputs.items()}
        lengths = {name: len(values) for name, values in given.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                "The columns for the transform are of different lengths.",
                detail=", ".join(f"{name} {rows}" for name, rows in lengths.items()),
                hint="Give one value a row in each.",
            )
        return given

    def _checked(self, made: Any, rows: int) -> Columns:
        if not isinstance(made, Mapping) or not made:
            what = "nothing" if made is None else f"a {type(made).__name__}{'' if made else ' without a column'}"
            raise self._wrong(f"returned {what}")
        found = {}
        for name, values in made.items():
            try:
                column = np.asarray(values)
            except ValueError:
                raise self._wrong(f"returned {name!r} with rows of unequal lengths") from None
            if column.ndim not in (1, 2):
                raise self._wrong(f"returned {name!r} with {column.ndim} dimensions")
            if len(column) != rows:
                raise self._wrong(f"made {len(column)} rows of {rows} in {name!r}")
            found[str(name)] = self._of_a_models_type(name, column)
        return found

    def _of_a_models_type(self, name: str, column: np.ndarray) -> np.ndarray:
        """Return a column as :func:`~airflow_mlops.engine.training.inputs.read_inputs` gives it."""
        kind = column.dtype.kind
        if kind == "f" or (kind in "iub" and column.ndim == 2):
            return column.astype(np.float32)
        if kind == "b" or (kind in "iu" and (kind == "i" or not column.size or column.max() <= _LARGEST)):
            return column.astype(bool if kind == "b" else np.int64)
        if kind in "US":
            return column.astype(object)
        if kind == "O":
            others = {type(one).__name__ for one in column.ravel().tolist() if not isinstance(one, str | bytes | None)}
            if not others:
                texts = column.copy()
                texts[texts == None] = ""  # noqa: E711  of each element
                return texts
            raise self._wrong(f"returned {name!r} with values of type {', '.join(sorted(others)[:3])}")
        raise self._wrong(f"returned {name!r} as {column.dtype}, which no model takes")

    def _wrong(self, what: str) -> DataError:
        return DataError(f"The transform {self.function!r} {what}.", hint=_RETURN)

    def _raised(self, error: Exception) -> MlopsError:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if shipped_file(one.filename)]
        last = frames[-1] if frames else None
        place = f"{shipped_file(last.filename)}:{last.lineno} in {last.name}: {last.line}" if last else "when called"
        passing = is_transient(error)
        return (TransientError if passing else DataError)(
            f"The transform {self.function!r} raised {type(error).__name__}.",
            detail=place,
            hint=TRIED_AGAIN if passing else _RETURN,
        )


def load_transform(saved_model: Path | str) -> Transform | None:
    """Return the transform that came with a model; None when it has none and takes the features themselves.

    :param saved_model: Folder of the version, such as ``/srv/models/churn/7``.
    :raises DataError: when no model is there, its transform's files are lost or not as they were shipped, or it imports
        what is not installed here.
    """
    model = Path(saved_model)
    folder = model / TRANSFORM
    if (folder / TOLD).is_file():
        return Transform(folder)
    if not (model / "saved_model.pb").is_file():
        raise DataError(
            "There is no model, so whether it has a transform is not known.",
            detail=f"{model} has no saved_model.pb",
            hint="Name the folder of a version, such as /srv/models/churn/7.",
        )
    for file in _NAMING:
        if function := _named_in(model / file):
            raise DataError(
                f"The model's transform {function!r} is lost: without it the model answers wrongly.",
                detail=f"{file.name} names it, and {folder} has no {TOLD}",
                hint="It belongs to the model: fetch the version again, or copy its folder whole, with assets.extra.",
            )
    return None


def _named_in(file: Path) -> str:
    """Return the transform that a file of a SavedModel names, if it can be read and names one."""
    try:
        return str(json.loads(file.read_bytes()).get("transform", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _as_told(name: str, values: Any, dtype: str) -> np.ndarray:
    text = dtype == "string"
    try:
        given = np.array(values, dtype=object) if text else np.asarray(values)
        if not given.ndim or (text and not all(isinstance(one, str | bytes) for one in given.flat)):
            raise TypeError
        return given if text else given.astype(dtype, casting="same_kind")
    except (TypeError, ValueError):
        raise DataError(
            f"Column {name!r} is not what the transform takes: {dtype}.",
            detail=f"given as {getattr(values, 'dtype', type(values).__name__)}",
            hint="Give one value a row, of that type. A missing float is NaN, a missing text is an empty one.",
        ) from None
