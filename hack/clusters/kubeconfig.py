"""Kubeconfig files that hold everything they need: the authority and one client certificate."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import yaml

from clusters.pki import KeyPair


def render(*, cluster: str, server: str, ca: Path, user: str, client: KeyPair) -> dict[str, Any]:
    """A kubeconfig with one context, `cluster`, in which `user` talks to `server`; the files are embedded."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": _data(ca)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _data(client.certificate),
                    "client-key-data": _data(client.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }


def write(file: Path, kubeconfig: dict[str, Any]) -> None:
    """Write the kubeconfig so that nobody else can read it, not even for a moment, nor see half of it."""
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        yaml.safe_dump(kubeconfig, opened, sort_keys=False)
    partial.replace(file)


def _data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
