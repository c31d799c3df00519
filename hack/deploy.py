#!/usr/bin/env python3
"""Build the images, load them into the cluster and install the operator there with Helm (`make deploy`).

Quick when nothing has changed: images are named by their content.
"""

import json
import subprocess
import sys
from pathlib import Path

from clusters.choice import DEFAULT_NAME

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "finetune-system"
RELEASE = "finetune-operator"


def run(*command: str) -> str:
    """Run a command of this repository, showing what it prints to stderr, and return what it prints to stdout.

    Raises subprocess.CalledProcessError when it fails.
    """
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def deploy(cluster: str = DEFAULT_NAME) -> None:
    """Bring up the cluster of that name if it is not up, and make the operator of this checkout run in it."""
    run("hack/cluster", "up", "--name", cluster)
    operator, trainer = run("hack/images", "build").splitlines()
    run("hack/cluster", "load-image", "--name", cluster, operator, trainer)
    run(
        *("hack/cluster", "helm", "--name", cluster),
        *("upgrade", RELEASE, "charts/finetune-operator", "--install"),
        *("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "5m"),
        *("--set-json", f"image={json.dumps(reference(operator))}"),
        *("--set-json", f"trainer.image={json.dumps(reference(trainer))}"),
    )


def reference(image: str) -> dict[str, str]:
    """The chart's way to name an image: repository and tag."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


if __name__ == "__main__":
    try:
        deploy()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)} failed with exit code {error.returncode}")
