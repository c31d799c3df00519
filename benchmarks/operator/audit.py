"""Pure: who wrote what to the API server, from its own audit log."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Written by the clock, whatever the jobs do.
        {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
# How the benchmark itself introduces itself: it makes the jobs, and plays the kubelet.
USER_AGENT = "benchmark"
CONTROLLER_MANAGER = "kube-controller-manager"


def writes(lines: Iterable[str], namespace: str) -> tuple[Counter[str], Counter[str]]:
    """Writes in a namespace, as "verb resource": of the system's own controllers, and of the controller manager."""
    own: Counter[str] = Counter()
    of_manager: Counter[str] = Counter()
    for line in lines:
        entry = json.loads(line)
        about, agent = entry.get("objectRef", {}), entry.get("userAgent", "")
        if about.get("namespace") != namespace or agent == USER_AGENT:
            continue
        resource = "/".join(filter(None, (about.get("resource"), about.get("subresource"))))
        by = of_manager if agent.startswith(CONTROLLER_MANAGER) else own
        by[f"{entry['verb']} {resource}"] += 1
    return own, of_manager
