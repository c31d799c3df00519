"""The Helm chart, rendered away from any cluster."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from clusters.binaries import ensure

CHART = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator"
IMAGES = {
    "image": {"repository": "registry.example:5000/team/operator", "tag": "1"},
    "trainer": {"image": {"repository": "registry.example:5000/team/trainer", "tag": "2"}},
}

Manifest = dict[str, Any]


def rendered(kind: str, **values: Any) -> Manifest:
    """The chart's only manifest of a kind."""
    helm = str(ensure(["helm"])["helm"])
    command = [helm, "template", "test", str(CHART), "--kube-version=1.34", "--values=-"]
    stdin = json.dumps(IMAGES | values)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return one(parsed(done.stdout), kind)


def parsed(text: str) -> list[Manifest]:
    """The manifests of a YAML stream."""
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of its kind."""
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found
