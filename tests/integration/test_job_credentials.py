"""Credentials of a job's own that end before it does."""

from __future__ import annotations

import os

from tests.faulty_s3 import faulty_s3
from tests.integration.test_remote_training import wait_until, worker  # noqa: F401  fixture
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures


def test_credentials_that_expire_while_a_job_trains_are_said_and_it_is_tried_again(worker, client, endpoint):  # noqa: F811
    prepared = worker.prepare()
    with faulty_s3(endpoint) as s3:
        job = worker.job(prepared, SLOW="3", AWS_ENDPOINT_URL=s3.url)
        wait_until(lambda: keys(client, f"mlops/checkpoints/{prepared['job']}/"), job)
        s3.expired = lambda method, path: True
        (worker.folder / "hurry").touch()
        said = job.communicate(timeout=120)[0]
    assert job.returncode == os.EX_TEMPFAIL, said
    assert "The credentials for the object storage have expired." in said
    job = worker.job(prepared)
    assert "Going on from a checkpoint" in job.communicate(timeout=120)[0]
    assert job.returncode == 0
    assert worker.collect(prepared)["epochs"] > 1
