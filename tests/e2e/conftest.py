"""A cluster with the operator of this checkout in it, and a namespace with claims for every test that asks."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy import ROOT, deploy, run


@dataclass(frozen=True)
class Namespace:
    """A namespace of its own; its claims are folders of this machine."""

    name: str
    claims: dict[str, Path] = field(default_factory=dict)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl here and return what it prints; what it complains of is shown when it fails."""
        command = ["hack/cluster", "kubectl", "--namespace", self.name, *arguments]
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def get(self, kind: str, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them, as the API server has it."""
        value: dict[str, Any] = json.loads(self.kubectl("get", kind, *arguments, "--output", "json"))
        return value

    def apply(self, manifest: dict[str, Any]) -> str:
        """Apply a manifest; returns what kubectl says."""
        return self.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))

    def wait(self, job: str, until: str, *, seconds: int) -> None:
        """Wait for a FineTuneJob with kubectl, as a user would; all that is known of it is shown when that fails."""
        deadline = time.monotonic() + seconds
        over = False
        while not self._is(job, until):
            # What has ended will not come to anything else; but it may have ended since it was looked at.
            if over or time.monotonic() > deadline:
                phase = self.get("finetunejob", job)["status"].get("phase")
                described = self.kubectl("describe", "finetunejob", job, check=False)
                around = self.kubectl("get", "pods,jobs", "--output", "wide", check=False)
                pytest.fail(f"{job} is {phase}; waited for {until}\n{described}\n{around}")
            over = self.get("finetunejob", job)["status"].get("phase") in ("Succeeded", "Failed")

    def _is(self, job: str, until: str) -> bool:
        """Whether something holds of a FineTuneJob, or comes to hold within ten seconds."""
        command = ("wait", f"finetunejob/{job}", f"--for={until}", "--timeout=10s")
        return "condition met" in self.kubectl(*command, check=False)

    def claim(self, name: str) -> Path:
        """The folder behind a claim, made when it is first asked for."""
        if name not in self.claims:
            self.claims[name] = Path(run("hack/cluster", "volume", f"{self.name}/{name}").splitlines()[-1])
        return self.claims[name]


@pytest.fixture(scope="session")
def operator() -> None:
    """The operator of this checkout, running in a cluster."""
    deploy()


@pytest.fixture(scope="module")
def namespace(operator: None) -> Iterator[Namespace]:
    """A namespace that enforces the Restricted Pod Security Standard, gone after the module's tests."""
    made = Namespace(f"e2e-{uuid.uuid4().hex[:8]}")
    made.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": made.name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    yield made
    made.kubectl("delete", "namespace", made.name, "--wait=true", "--timeout=120s")
