"""The operator as a process, as its Deployment would run it."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from certificates import write_certificate
from cluster.kube import eventually
from clusters.ports import free_ports
from finetune_api import names
from finetune_api.report import Report


class Process(Protocol):
    """What there has to be about the process of an operator; a Popen is one."""

    def poll(self) -> int | None:
        """The exit status, or minus the signal; None while it runs."""

    def send_signal(self, number: int, /) -> None:
        """Unless it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal, once it has ended."""


class Operator:
    """`finetune-operator` against a control plane; may be killed and started again."""

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "operator.log"
        self.report_port, self.webhook_port, self.health_port, self.page_port = free_ports(4)
        write_certificate(directory / "tls")
        self.environment = {
            "KUBECONFIG": str(kubeconfig),
            "FINETUNE_TRAINER_IMAGE": "registry.invalid/trainer:1",
            "FINETUNE_REPORT_URL": f"https://127.0.0.1:{self.report_port}",
            "FINETUNE_TLS_DIR": str(directory / "tls"),
            "FINETUNE_REPORT_PORT": str(self.report_port),
            "FINETUNE_WEBHOOK_PORT": str(self.webhook_port),
            "FINETUNE_HEALTH_PORT": str(self.health_port),
            "FINETUNE_PAGE": "true",
            "FINETUNE_PAGE_PORT": str(self.page_port),
        }
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self._spawn()
        eventually(self._is_up, seconds=60)

    def run_to_its_end(self) -> tuple[int, str]:
        """Start it, and wait until it has given up; returns its exit status and what it said."""
        return self._spawn().wait(timeout=60), self.log.read_text()

    def _spawn(self) -> Process:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [Path(sys.executable).parent / "finetune-operator"],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
            )

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return self.get("/healthz")[0] == 200
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: no time for anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as Kubernetes stops a pod; returns the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(timeout=30)
        self._process = None
        return status

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its health endpoint."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def writes(self) -> dict[str, int]:
        """Write requests to the API server so far, as "verb resource"."""
        pattern = r'finetune_api_requests_total\{code="\w+",resource="(\w+)",verb="(\w+)"\} (\S+)'
        found: Counter[str] = Counter()
        for resource, verb, count in re.findall(pattern, self.get("/metrics")[1]):
            if verb != "get":
                found[f"{verb} {resource}"] += int(float(count))
        return dict(found)

    def post(
        self,
        namespace: str,
        name: str,
        body: Report | bytes,
        *,
        token: str | None,
        path: str | None = None,
        method: str = "POST",
    ) -> tuple[int, dict[str, Any]]:
        """POST to the report endpoint, checking its certificate; returns status and parsed answer."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.report_port}{path or names.report_path(namespace, name)}",
            data=body.to_json().encode() if isinstance(body, Report) else body,
            method=method,
            headers={"Authorization": f"Bearer {token}"} if token is not None else {},
        )
        context = ssl.create_default_context(cafile=str(self.directory / "tls" / "ca.crt"))
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
