"""A function of this file in a process of its own, with TensorFlow."""

from airflow.sdk import dag, task


@dag("example_function", schedule=None)
def example() -> None:
    """Multiply, far from the worker."""

    @task.tensorflow(timeout=300)
    def product(numbers: list[float]) -> float:
        import tensorflow as tf

        return float(tf.reduce_prod(tf.constant(numbers)))

    product([2.0, 3.0, 7.0])


function = example()
