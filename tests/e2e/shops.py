"""What lands in the folder of DAG files beside the example: two shops, a function, and models made elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.conftest import ROOT
from tests.shop import FIRST, write_shop

DAYS, ORDERS = 26, 34
LAST = "2024-01-26"
SHOPS = ("shop_regression", "shop_multiclass")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)

PIECES = {
    "shop_regression": {
        "label": 'Label("refund", known_at="decided_at", matures_after="7d", weight="weight")',
        "train": 'Trainer("shop_model:build", window="60d", validation="3d", test="5d", epochs=100, batch_size=64)',
        "more": "",
    },
    "shop_multiclass": {
        "label": 'Label("reason", known_at="decided_at", matures_after="7d")',
        "train": 'Trainer(script="shop_train.py", args=["10"], window="60d", validation="3d", test="5d")',
        "more": '    batch=BatchPredict(columns=["customer"]),\n',
    },
}
MODEL = {
    'Dense(1, activation="sigmoid")': "Dense(1, bias_initializer=keras.initializers.Constant(60.0))",
    '"binary_crossentropy"': '"mse"',
    'optimizer="adam"': "optimizer=keras.optimizers.Adam(0.05)",
}
SCRIPT = '''"""How often each class was, by price: counted with NumPy, exported with TensorFlow."""

import json
import os
import sys

import numpy as np
import pandas as pd
import tensorflow as tf

told = json.load(open(os.environ["MLOPS_TRAINING"]))
rows = pd.read_parquet(told["train"])
edges = np.quantile(rows["price"], np.linspace(0, 1, int(sys.argv[1]) + 1)[1:-1]).astype("float32")
counts = np.ones((len(edges) + 1, len(told["classes"])))
for price, label in zip(rows["price"], rows[told["label"]]):
    counts[np.searchsorted(edges, price), told["classes"].index(label)] += 1
shares = (counts / counts.sum(axis=1, keepdims=True)).astype("float32")


class Table(tf.Module):
    @tf.function(input_signature=[{name: tf.TensorSpec([None], tf.float32, name) for name in told["inputs"]}])
    def serve(self, inputs):
        return {"probabilities": tf.gather(shares, tf.searchsorted(edges, inputs["price"]))}


table = Table()
tf.saved_model.save(table, told["saved_model"], signatures={"serving_default": table.serve})
'''
BUY = """
from airflow_mlops.operators.mlflow_elsewhere import MLflowRegisterSavedModelOperator

with DAG("buy", schedule=None, params={"source": ""}) as buy:
    MLflowRegisterSavedModelOperator(task_id="register", model="bought", source="{{ params.source }}")
"""
FUNCTIONS = """
from __future__ import annotations

from airflow.sdk import DAG, task
from scaling import scale

LAYERS = [3]
trains = task.tensorflow(timeout=100)


def total(values):
    import tensorflow as tf

    return float(tf.reduce_sum(tf.constant(values)))


with DAG("functions", schedule=None, params={"n": 4}) as dag:

    @task
    def extract() -> list[float]:
        return [1.0, 2.0]

    @task.tensorflow(multiple_outputs=True)
    def train(rows, name, run_id=None, params=None):
        print("summing")
        return {"total": scale(total(rows)), "layers": LAYERS, "run_id": run_id, "n": params["n"], "name": name}

    @trains
    def part(number, of):
        return number * of

    @task.tensorflow(python="/nowhere/{{ params.n }}/python", retries=3)
    def misplaced():
        return 1

    @task.tensorflow
    def skipped():
        from airflow.sdk.exceptions import AirflowSkipException

        raise AirflowSkipException("nothing new")

    @task
    def keep(found, layers, parts):
        return [found, layers, list(parts)]

    rows = extract()
    trained = train(rows, "{{ dag.dag_id }}")
    keep(trained, trained["layers"], part.partial(of=10).expand(number=rows))
    misplaced()
    skipped()
"""


def write_shops(folder: Path) -> None:
    """Write the guide's shop twice, with other labels: each with features of its own, of the orders of both."""
    write_shop(folder, more=True, days=DAYS, orders=ORDERS)
    dags, repo = folder / "dags", folder / "feature_repo"
    for shop, pieces in PIECES.items():
        made = (dags / "shop.py").read_text().replace("import FeatureService", "import BatchPredict, FeatureService")
        made = made.replace('model="shop"', f'model="{shop}"').replace('"shop_v1"', f'"{shop}_v1", conn_id="{shop}"')
        made = re.sub(r"start=date\(.*?\)", rf'\g<0>, end=date.fromisoformat("{LAST}"), dataset="{shop}_orders"', made)
        made = re.sub(r"Label\(.*\)", pieces["label"], made)
        made = re.sub(r"Trainer\(.*\)", pieces["train"], made)
        made = re.sub(r"    gates=.*\n", pieces["more"], made)
        (dags / f"{shop}.py").write_text(made.replace("shop_features:", f"{shop}_features:"))
        own = folder / f"repo_{shop}"
        own.mkdir()
        for file in repo.iterdir():
            text = file.read_text().replace("customer_history", f"{shop}_history").replace("shop_v1", f"{shop}_v1")
            text = text.replace('data["orders"]', f'data["{shop}_orders"]').replace("project: shop", f"project: {shop}")
            name = file.name.replace("shop_features", f"{shop}_features")
            (own / name).write_text(text.replace("/feast/", f"/feast/{shop}_"))
    (dags / "shop.py").unlink()
    changed = (dags / "shop_model.py").read_text()
    for old, new in MODEL.items():
        assert old in changed
        changed = changed.replace(old, new)
    (dags / "shop_model.py").write_text(changed)
    (dags / "shop_train.py").write_text(SCRIPT)
    for file in folder.glob("lake/orders/*/*"):  # landed long ago: a folder that is still has all of its files
        os.utime(file, (FIRST.timestamp(), FIRST.timestamp()))


def write_elsewhere(dags: Path) -> None:
    """Write the guide's DAG of models that were made elsewhere, for two of them."""
    text = BLOCK.findall((ROOT / "docs" / "registry" / "elsewhere.md").read_text())[0]
    (dags / "serve_colleague.py").write_text(text)
    (dags / "serve_bought.py").write_text(text.replace("colleague", "bought") + BUY)


def write_functions(dags: Path) -> None:
    """Write a DAG of functions in processes of their own."""
    (dags / "functions.py").write_text(FUNCTIONS)
    (dags / "scaling.py").write_text("def scale(value):\n    return 10 * value\n")
