"""Helm and kubectl against a control plane, and the chart as they install it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from cluster.chart import CHART, IMAGES, RELEASE, Manifest, one
from clusters.binaries import ensure
from clusters.local import ControlPlane

NAMESPACE = "chart-test"


class Tools:
    """Helm and kubectl, pointed at a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self.kubeconfig = plane.kubeconfig
        self._programs = ensure(["helm", "kubectl"])

    def run(
        self, program: str, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, however that is."""
        options = (f"--kubeconfig={self.kubeconfig}", f"--namespace={NAMESPACE}")
        command = [str(self._programs[program]), *options, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl printed; a failure fails the test."""
        return succeeded(self.run("kubectl", *arguments, stdin=stdin))

    def get(self, *what: str) -> Manifest:
        """An object as the API server has it."""
        found: Manifest = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def helm(
        self, command: str, *arguments: str, chart: Path = CHART, **values: Any
    ) -> subprocess.CompletedProcess[str]:
        """A Helm command on the release and the chart, with names for the images, and with `values`."""
        stdin = json.dumps(IMAGES | values)
        return self.run("helm", command, RELEASE, str(chart), "--values=-", *arguments, stdin=stdin)

    def template(self, **values: Any) -> str:
        """The chart as it would be installed first."""
        return succeeded(self.helm("template", "--kube-version=1.34", **values))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What a program printed; a failure fails the test."""
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}{done.stderr}"
    return done.stdout


def pod_spec(manifests: list[Manifest]) -> Manifest:
    """What the Deployment's pod is to be like."""
    found: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return found
