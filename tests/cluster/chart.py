"""The Helm chart, rendered away from any cluster."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from cluster.kube import Kube
from clusters.binaries import ensure
from clusters.shell import output

CHART = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
IMAGES: dict[str, Any] = {
    "image": {"repository": "registry.example:5000/team/operator", "tag": "1"},
    "trainer": {"image": {"repository": "registry.example:5000/team/trainer", "tag": "2"}},
}
RELEASE = "finetune-operator"
"""Everything that there is one of has the name of the release."""

Manifest = dict[str, Any]


def rendered(kind: str, **values: Any) -> Manifest:
    """The chart's manifest of a kind."""
    return one(manifests(**values), kind)


def manifests(namespace: str = "default", **values: Any) -> list[Manifest]:
    """All that the chart installs, away from any cluster."""
    helm = str(ensure(["helm"])["helm"])
    command = [helm, "template", RELEASE, str(CHART), "--kube-version=1.34", f"--namespace={namespace}"]
    stdin = json.dumps(IMAGES | values)
    done = subprocess.run([*command, "--values=-"], input=stdin, capture_output=True, text=True, check=True)
    return parsed(done.stdout)


def notes(kube: Kube, **values: Any) -> str:
    """What Helm prints when the chart is installed."""
    helm = ensure(["helm"])["helm"]
    options = (f"--kubeconfig={kube.kubeconfig}", "--dry-run=client", "--values=-")
    # The CRD is there already.
    stdin = json.dumps(IMAGES | {"crds": {"install": False}} | values)
    _, printed = output(helm, "install", RELEASE, CHART, *options, stdin=stdin).split("NOTES:")
    return printed


def parsed(text: str) -> list[Manifest]:
    """The manifests of a YAML stream."""
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def every(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The manifests of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str, name: str = RELEASE) -> Manifest:
    """The only manifest of its kind, or the one of several that has the name."""
    found = every(manifests, kind)
    if len(found) > 1:
        found = [manifest for manifest in found if manifest["metadata"]["name"] == name]
    [only] = found
    return only
