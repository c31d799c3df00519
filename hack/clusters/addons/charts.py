"""A controller as a process, with all that its chart installs but the pod that it would run in.

It listens on loopback, so its webhooks have addresses in place of a Service, and it has no more rights than the chart
gives its service account.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from clusters import kubeconfig
from clusters.pki import KeyPair
from clusters.shell import output

Manifest = dict[str, Any]

# What has a process in place of a pod has no use for. Without a server behind them, no namespace could be deleted
# while there are APIServices.
_NOT_INSTALLED = {"APIService", "ConfigMap", "Deployment", "Secret", "Service"}


def rendered(helm: Path, chart: Path, release: str, namespace: str) -> list[Manifest]:
    """All objects of a chart, those of its folder crds/ before the others."""
    text = output(helm, "template", release, chart, f"--namespace={namespace}", "--include-crds")
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def without_pod(manifests: list[Manifest], *, webhook_port: int) -> list[Manifest]:
    """Those objects that a process needs, too, with webhooks that are at a port of loopback."""
    installed = [manifest for manifest in manifests if manifest["kind"] not in _NOT_INSTALLED]
    for manifest in installed:
        for client in _webhook_clients(manifest):
            path = client.pop("service")["path"]
            client["url"] = f"https://127.0.0.1:{webhook_port}{path}"
    return installed


def namespace(name: str) -> Manifest:
    """A namespace for a controller."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def certificate_secret(name: str, namespace: str, pair: KeyPair) -> Manifest:
    """Where a controller would make a certificate for its Service, it finds one that is good for the address, too."""
    certificate, key = (base64.b64encode(file.read_bytes()).decode() for file in (pair.certificate, pair.key))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"ca.crt": certificate, "ca.key": key, "tls.crt": certificate, "tls.key": key},
    }


def write_rights(file: Path, administrator: Path, account: str, *, server: str | None = None) -> None:
    """Write the kubeconfig of a service account, `namespace:name`, as the administrator may act for it.

    `server` is the API server's address for the controller, where that is another one.
    """
    content = yaml.safe_load(administrator.read_text())
    content["users"][0]["user"]["as"] = f"system:serviceaccount:{account}"
    if server is not None:
        content["clusters"][0]["cluster"]["server"] = server
    kubeconfig.write(file, content)


def as_list(manifests: list[Manifest]) -> str:
    """Several objects as one document for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})


def _webhook_clients(manifest: Manifest) -> list[Manifest]:
    """Where the API server is to find the webhooks of a manifest."""
    if manifest["kind"] == "CustomResourceDefinition":
        webhook = manifest["spec"].get("conversion", {}).get("webhook")
        return [webhook["clientConfig"]] if webhook else []
    return [webhook["clientConfig"] for webhook in manifest.get("webhooks", [])]
