"""A small SageMaker: it creates, describes and stops training jobs, and really runs each. moto completes all at once.

Everything else that it is asked goes to moto, such as the logs.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import requests
from botocore.validate import ParamValidator

Run = Callable[[Mapping[str, Any], Path], Sequence[str]]
"""Request of a job, and its folder ``/opt/ml`` → the command that runs it here."""
Fault = Callable[[str], tuple[str, str] | None]
"""Operation → error code and message."""
LOGS = "/aws/sagemaker/TrainingJobs"


def problems(service: str, operation: str, request: Mapping[str, Any]) -> str:
    """Return what the service's own model finds wrong with a request; botocore does not look at patterns and enums."""
    shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
    found = [ParamValidator().validate(request, shape).generate_report()]
    found += _beyond(request, shape, operation)
    return "\n".join(filter(None, found))


def _beyond(value: Any, shape: Any, path: str) -> list[str]:
    if shape.type_name == "structure":
        return [text for name in value for text in _beyond(value[name], shape.members[name], f"{path}.{name}")]
    if shape.type_name == "list":
        return [text for one in value for text in _beyond(one, shape.member, f"{path}[]")]
    if shape.type_name != "string":
        return []
    pattern, most, enum = shape.metadata.get("pattern"), shape.metadata.get("max"), getattr(shape, "enum", [])
    wrong = (
        (pattern and not re.fullmatch(pattern, value)) or (most and len(value) > most) or (enum and value not in enum)
    )
    return [f"{path}: {value!r} is not what {shape.name} allows"] if wrong else []


@dataclass
class _Job:
    request: Mapping[str, Any]
    folder: Path
    process: subprocess.Popen[str]
    created: float = field(default_factory=time.time)
    ended: float = 0.0
    stopping: bool = False
    shown: bool = False


class SageMakerServer:
    """What it was asked for, and what is to go wrong."""

    def __init__(self, run: Run, behind: str) -> None:
        self._run, self.behind, self.url = run, behind, ""
        self.jobs: dict[str, _Job] = {}
        self.fault: Fault = lambda operation: None
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory()

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and answer."""
        with self._lock:
            if fault := self.fault(operation):
                return 400, {"__type": fault[0], "message": fault[1]}
            return getattr(self, f"_{operation}")(request)

    def wait(self, name: str) -> int:
        """Wait for the end of a job, and return its exit status."""
        return self.jobs[name].process.wait(timeout=120)

    def close(self) -> None:
        """End what still runs."""
        for job in self.jobs.values():
            if job.process.poll() is None:
                job.process.terminate()
                job.process.wait(timeout=60)
        self._folder.cleanup()

    def _CreateTrainingJob(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        name = request["TrainingJobName"]
        if wrong := problems("sagemaker", "CreateTrainingJob", request):
            return 400, {"__type": "ValidationException", "message": wrong}
        if name in self.jobs:
            return 400, {"__type": "ResourceInUse", "message": f"Training job {name} exists already."}
        folder = Path(self._folder.name, name)
        (folder / "output").mkdir(parents=True)
        for one in (folder, folder / "output"):  # the image has a user of its own
            one.chmod(0o777)
        process = subprocess.Popen(
            self._run(request, folder), stdout=(folder / "log").open("w"), stderr=subprocess.STDOUT, text=True
        )
        self.jobs[name] = _Job(request, folder, process)
        return 200, {"TrainingJobArn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}"}

    def _DescribeTrainingJob(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        name = request["TrainingJobName"]
        if name not in self.jobs:
            return 400, {"__type": "ValidationException", "message": "Requested resource not found."}
        job = self.jobs[name]
        status, second = self._status(job)
        described = {**job.request, "TrainingJobStatus": status, "SecondaryStatus": second, "CreationTime": job.created}
        if status in ("Completed", "Failed", "Stopped"):
            self._keep_log(name, job)
            seconds = int(job.ended - job.created) + 1
            described |= {"TrainingEndTime": job.ended, "BillableTimeInSeconds": seconds}
        if status == "Failed":
            said = job.folder / "output" / "failure"
            reason = said.read_text()[:1024] if said.exists() else ""
            described["FailureReason"] = f"AlgorithmError: {reason}, exit code: {job.process.returncode % 256}"
        return 200, described

    def _StopTrainingJob(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:  # noqa: N802
        job = self.jobs[request["TrainingJobName"]]
        if job.process.poll() is not None:
            return 400, {"__type": "ValidationException", "message": "The request was rejected: it has ended."}
        job.stopping = True
        job.process.terminate()
        return 200, {}

    def _status(self, job: _Job) -> tuple[str, str]:
        ended = job.process.poll()
        if ended is None:
            return ("Stopping", "Stopping") if job.stopping else ("InProgress", "Training")
        job.ended = job.ended or time.time()
        if job.stopping:
            return "Stopped", "Stopped"
        return ("Completed", "Completed") if ended == 0 else ("Failed", "Failed")

    def _keep_log(self, name: str, job: _Job) -> None:
        """Put what it printed where CloudWatch would have it."""
        if job.shown:
            return
        job.shown = True
        logs = boto3.client("logs", endpoint_url=self.behind, region_name="us-east-1")
        if not logs.describe_log_groups(logGroupNamePrefix=LOGS)["logGroups"]:
            logs.create_log_group(logGroupName=LOGS)
        stream = f"{name}/algo-1-{int(job.created)}"
        logs.create_log_stream(logGroupName=LOGS, logStreamName=stream)
        lines = (job.folder / "log").read_text().splitlines()
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in lines if line]
        if events:
            logs.put_log_events(logGroupName=LOGS, logStreamName=stream, logEvents=events)


@contextmanager
def sagemaker_server(run: Run, behind: str) -> Iterator[SageMakerServer]:
    """Run such a server in front of moto's."""
    served = SageMakerServer(run, behind)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target = self.headers.get("X-Amz-Target", "")
            service, _, operation = target.partition(".")
            if service == "SageMaker" or served.fault(operation):
                status, answer = served.answer(operation, json.loads(body))
                sent = json.dumps(answer).encode()
            else:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                passed = requests.post(served.behind + self.path, data=body, headers=headers, timeout=60)
                status, sent = passed.status_code, passed.content
            self.send_response_only(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        served.close()
