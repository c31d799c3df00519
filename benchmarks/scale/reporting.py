"""Has the trainers of all running jobs report, from a process of their own (trainers.py)."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import IO, Self

from benchmarks.operator.client import Client, at_once
from benchmarks.scale.stand import NAMESPACE, PODS, Stand, job_name
from benchmarks.scale.trainers import Told
from finetune_api import names

_TOKENS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"
_FIRST_PER_SECOND = 40


def tokens(stand: Stand) -> dict[str, str]:
    """For each running job, what the kubelet would project into its first pod."""
    pods = stand.client.request("GET", f"{PODS}?labelSelector=batch.kubernetes.io/job-completion-index%3D0")
    found: dict[str, str] = {}

    def issue(job: str, pod: str, client: Client) -> None:
        spec = {
            "audiences": [names.TOKEN_AUDIENCE],
            "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod},
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        found[job] = client.request("POST", _TOKENS, body)["status"]["token"]

    tasks: list[Callable[[Client], None]] = [
        partial(issue, pod["metadata"]["labels"][names.LABEL_JOB], pod["metadata"]["name"])
        for pod in pods["items"]
    ]
    at_once(stand.kubeconfig, tasks)
    missing = {job_name(number) for number in range(stand.size.running)} - set(found)
    if missing:
        raise RuntimeError(f"{len(missing)} running jobs have no first pod, such as {min(missing)}")
    return found


class Trainers:
    """Those of all running jobs, while the context lasts."""

    def __init__(self, stand: Stand) -> None:
        """Their tokens are issued now, and valid for an hour."""
        self._operator = stand.operator
        self._tokens = tokens(stand)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale.trainers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(
            {
                "url": f"https://127.0.0.1:{self._operator.report_port}",
                "authority": str(self._operator.directory / "tls" / "ca.crt"),
                "namespace": NAMESPACE,
                "tokens": self._tokens,
            }
        )
        self._hear()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self) -> float:
        """Every running job reports once, within a moment that bears it: they are Running from then on.

        Returns the seconds after which a report was wanted again when all of them had been heard of.
        """
        told = self._perform(len(self._tokens) / _FIRST_PER_SECOND, once=True)
        if told.refused:
            raise RuntimeError(f"{len(told.refused)} first reports were refused, such as: {told.refused[0]}")
        return max(told.intervals)

    def report(self, seconds: float) -> Told:
        """All running jobs report for so long, each as often as it is asked to."""
        return self._perform(seconds, once=False)

    def _perform(self, seconds: float, *, once: bool) -> Told:
        self._say({"seconds": seconds, "once": once})
        return Told(**json.loads(self._hear()))

    def _say(self, what: object) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write(json.dumps(what) + "\n")
        pipe.flush()

    def _hear(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"the process of the trainers has ended, with status {self._process.wait()}")
        return line

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None, "Popen was asked for it"
        return pipe
