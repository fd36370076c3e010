"""Boosted trees predict the same as a Keras model, and as its SavedModel."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
CHECK = """
import json, sys
import numpy as np, pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from airflow_mlops.engine.training.trees import Encoding, as_keras

rng = np.random.default_rng(0)
n = 600
rows = pd.DataFrame({
    "price": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)).astype("float32"),
    "country": rng.choice(["de", "it", "pl", None], n),
    "gift": rng.random(n) < 0.5,
    "items": rng.integers(1, 5, n),
})
rows.loc[:3, "country"] = "rare"
signal = np.nan_to_num(rows["price"]) + rows["items"] + 2 * (rows["country"] == "it")
encoding = Encoding.of(rows)
found = {"words": list(encoding.words["country"])}
for name, target in {
    "binary": signal > 3, "multiclass": pd.cut(signal, [-9, 2, 4, 99], labels=["a", "b", "c"]).astype(str),
    "regression": signal * 50 + 7,
}.items():
    kind = HistGradientBoostingRegressor if name == "regression" else HistGradientBoostingClassifier
    booster = kind(max_iter=30, random_state=0).fit(encoding(rows), target)
    if name == "regression":
        wanted = booster.predict(encoding(rows))[:, None]
    else:
        wanted = booster.predict_proba(encoding(rows))
    wanted = wanted[:, 1:] if name == "binary" else wanted
    model = as_keras(booster, encoding)
    served = f"{sys.argv[1]}/{name}"
    model.export(served, verbose=False)
    import tensorflow as tf
    asked = {
        "price": tf.constant(rows["price"]), "country": tf.constant(rows["country"].fillna("").tolist()),
        "gift": tf.constant(rows["gift"]), "items": tf.constant(rows["items"], tf.int64),
    }
    answer = tf.saved_model.load(served).signatures["serving_default"](**asked)
    got = next(iter(answer.values())).numpy()
    found[name] = {"shape": list(got.shape), "off": float(np.abs(got - wanted).max())}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """In a process of its own, because it needs TensorFlow."""
    folder = tmp_path_factory.mktemp("trees")
    done = subprocess.run([sys.executable, "-c", CHECK, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("problem", "width"), [("binary", 1), ("multiclass", 3), ("regression", 1)])
def test_what_is_served_is_what_scikit_learn_predicts(found: dict, problem: str, width: int):
    assert found[problem]["shape"] == [600, width]
    assert found[problem]["off"] < 1e-4


def test_a_text_of_few_rows_is_not_in_the_model(found: dict):
    assert found["words"] == ["de", "it", "pl"]
