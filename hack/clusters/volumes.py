"""Claims that are folders of this machine, so that files can be put in and taken out by hand."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from clusters.cluster import kubectl
from clusters.console import ClusterError


def parse_claim(text: str) -> tuple[str, str]:
    """NAMESPACE/CLAIM → (namespace, claim).

    Raises:
        ClusterError: it is not of that form.
    """
    namespace, _, claim = text.partition("/")
    if not (namespace and claim) or "/" in claim:
        raise ClusterError(f"volume {text!r} is not of the form NAMESPACE/CLAIM")
    return namespace, claim


def create_volume(
    kubeconfig: Path, folder: Path, node_folder: PurePath, namespace: str, claim: str, size: str
) -> Path:
    """Make the claim, and the namespace if need be, over `folder`, which nodes see as `node_folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Pods run as users that this machine does not know, each perhaps as another one.
    folder.chmod(0o777)
    name = volume_name(namespace, claim)
    if bound := _get(
        kubeconfig, f"--namespace={namespace}", "persistentvolumeclaim", claim, "{.spec.volumeName}"
    ):
        if bound != name:
            raise ClusterError(
                f"claim {claim} in namespace {namespace} is there already, and not over {folder}"
            )
        return folder
    if not _get(kubeconfig, "namespace", namespace, "{.metadata.name}"):
        kubectl(kubeconfig, "create", "namespace", namespace)
    if _get(kubeconfig, "persistentvolume", name, "{.status.phase}") == "Released":
        # Its claim has been deleted, with its namespace perhaps, and it would not take another of that name.
        kubectl(kubeconfig, "delete", "persistentvolume", name)
    objects = json.dumps(volume_objects(node_folder, namespace, claim, size))
    kubectl(kubeconfig, "apply", "--server-side", "--filename=-", stdin=objects)
    # Pods that come before the two are bound are put off by the scheduler for many seconds.
    until_bound = ("--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
    kubectl(kubeconfig, "wait", f"--namespace={namespace}", f"persistentvolumeclaim/{claim}", *until_bound)
    return folder


def _get(kubeconfig: Path, *words: str) -> str:
    """One field of an object, given as a JSON path in the last word; empty when there is no such object."""
    *what, path = words
    return kubectl(kubeconfig, "get", *what, "--ignore-not-found", f"--output=jsonpath={path}")


def volume_name(namespace: str, claim: str) -> str:
    """The volume behind a claim. A dot can not be in the name of a namespace: no two claims get the same one."""
    return f"{namespace}.{claim}"


def volume_objects(node_folder: PurePath, namespace: str, claim: str, size: str) -> dict[str, Any]:
    """A PersistentVolume for this claim alone, and the claim for this volume alone."""
    volume = volume_name(namespace, claim)
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": volume},
                "spec": {
                    **common,
                    "capacity": {"storage": size},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": namespace, "name": claim},
                    "hostPath": {"path": str(node_folder), "type": "Directory"},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": namespace},
                "spec": {**common, "volumeName": volume, "resources": {"requests": {"storage": size}}},
            },
        ],
    }
