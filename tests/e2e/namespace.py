"""A namespace of the cluster, and what tests do in one: with kubectl, as a user would."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clusters.binaries import ensure
from clusters.choice import DEFAULT_NAME, current_cluster
from deploy import run

# Long enough for pods to import torch on a machine of two cores that has much else to do.
PATIENCE = 600


@cache
def kubectl() -> tuple[str, ...]:
    """The start of a command line: what `hack/cluster kubectl` becomes.

    Found once, for tests look again and again, and what finds it takes several times as long as kubectl itself.
    """
    return str(ensure(["kubectl"])["kubectl"]), f"--kubeconfig={current_cluster(DEFAULT_NAME).kubeconfig}"


@dataclass(frozen=True)
class Namespace:
    """A namespace of its own; its claims are folders of this machine."""

    name: str
    claims: dict[str, Path] = field(default_factory=dict)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl here and return what it prints; what it complains of is shown when it fails."""
        command = [*kubectl(), "--namespace", self.name, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def get(self, kind: str, *arguments: str) -> dict[str, Any]:
        """An object, or a list of them, as the API server has it."""
        value: dict[str, Any] = json.loads(self.kubectl("get", kind, *arguments, "--output", "json"))
        return value

    def apply(self, manifest: dict[str, Any]) -> str:
        """Apply a manifest; returns what kubectl says."""
        return self.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))

    def wait(self, job: str, until: str, *, seconds: int = PATIENCE) -> None:
        """Wait for a FineTuneJob with kubectl, as a user would; all that is known of it is shown when that fails."""
        deadline = time.monotonic() + seconds
        over = False
        while not self._is(job, until):
            # What has ended will not come to anything else; but it may have ended since it was looked at.
            if over or time.monotonic() > deadline:
                pytest.fail(f"{job}: waited for {until}\n{self.told_of(job)}")
            over = self.get("finetunejob", job)["status"].get("phase") in ("Succeeded", "Failed")

    def follow(
        self, job: str, until: Callable[[dict[str, Any]], bool], *, seconds: int = PATIENCE
    ) -> dict[str, Any]:
        """Look at a FineTuneJob's status until something holds of it, and return that status.

        All that is known of the job is shown when it ends, or the time is over, before that.
        """
        deadline = time.monotonic() + seconds
        while True:
            status: dict[str, Any] = self.get("finetunejob", job).get("status", {})
            if until(status):
                return status
            if status.get("phase") in ("Succeeded", "Failed") or time.monotonic() > deadline:
                pytest.fail(f"{job}: waited in vain\n{self.told_of(job)}")
            time.sleep(0.5)

    def told_of(self, job: str) -> str:
        """All that the cluster tells of a FineTuneJob, for people."""
        around = self.kubectl("get", "pods,jobs", "--output", "wide", check=False)
        return self.kubectl("describe", "finetunejob", job, check=False) + around

    def _is(self, job: str, until: str) -> bool:
        """Whether something holds of a FineTuneJob, or comes to hold within ten seconds."""
        command = ("wait", f"finetunejob/{job}", f"--for={until}", "--timeout=10s")
        return "condition met" in self.kubectl(*command, check=False)

    def claim(self, name: str) -> Path:
        """The folder behind a claim, made when it is first asked for."""
        if name not in self.claims:
            self.claims[name] = Path(run("hack/cluster", "volume", f"{self.name}/{name}").splitlines()[-1])
        return self.claims[name]
