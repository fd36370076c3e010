"""What somebody else made, without this package: two versions logged by MLflow, and SavedModels. Imports TensorFlow.

Run: python tests/colleague.py TRACKING_URI FOLDER
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def logged(tracking_uri: str) -> None:
    """Register two versions of ``colleague``, with an input example."""
    import keras
    import mlflow
    import numpy as np

    mlflow.set_tracking_uri(tracking_uri)
    rows = {
        "price": np.array([1.0, 2.0], np.float32),
        "vector": np.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]], np.float32),
    }
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        price, vector = keras.Input((), name="price"), keras.Input((3,), name="vector")
        both = keras.layers.Concatenate()([keras.layers.Reshape((1,))(price), vector])
        model = keras.Model({"price": price, "vector": vector}, keras.layers.Dense(1)(both))
        with mlflow.start_run():
            mlflow.tensorflow.log_model(
                model, name="model", registered_model_name="colleague", input_example=rows, pip_requirements=["keras"]
            )


def exported(folder: Path) -> None:
    """Write SavedModels: one with several signatures and warm-up records, one without any, and one of another kind."""
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable(2.0)

    def both(words: tf.Tensor, pixels: tf.Tensor, factor: tf.Tensor) -> dict[str, tf.Tensor]:
        sums = tf.reduce_sum(pixels, [1, 2]) * module.weight * factor
        return {"score": sums + tf.cast(tf.strings.length(words)[:, 0], tf.float32), "word": words[:, 0]}

    def length(words: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"length": tf.strings.length(words)}

    specs = (
        tf.TensorSpec([None, None], tf.string, "words"),
        tf.TensorSpec([None, 2, 2], tf.float32, "pixels"),
        tf.TensorSpec([], tf.float32, "factor"),
    )
    module.both = tf.function(both, autograph=False)
    module.length = tf.function(length, autograph=False)
    signatures = {
        "serving_default": module.both.get_concrete_function(*specs),
        "length": module.length.get_concrete_function(specs[0]),
    }
    tf.saved_model.save(module, str(folder / "several"), signatures=signatures)
    tf.saved_model.save(module, str(folder / "unsigned"))
    tf.saved_model.save(module, str(folder / "other"), signatures={"length": signatures["length"]})
    warm_up(folder / "several")


def warm_up(saved_model: Path) -> None:
    """Write warm-up records as TensorFlow Serving's guide does."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    file = saved_model / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for word in (b"one", b"\xff\xfe"):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "several"
            request.inputs["words"].CopyFrom(tf.make_tensor_proto([[word]]))
            request.inputs["pixels"].CopyFrom(tf.make_tensor_proto([[[1.0, 2.0], [3.0, 4.0]]]))
            request.inputs["factor"].CopyFrom(tf.make_tensor_proto(0.5))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    assert struct.unpack_from("<Q", file.read_bytes())[0] > 0


if __name__ == "__main__":
    exported(Path(sys.argv[2]))
    logged(sys.argv[1])
