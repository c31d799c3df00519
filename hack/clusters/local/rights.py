"""What the processes of a node may read through the API, beyond what Kubernetes grants its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clusters.pki import Identity

_GROUP = "rbac.authorization.k8s.io"


def read_rights(identity: Identity, resources: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The objects by which `identity` may follow the resources of these API groups, in all namespaces."""
    metadata = {"name": identity.user}
    rules = [
        {"apiGroups": [group], "resources": list(names), "verbs": ["get", "list", "watch"]}
        for group, names in resources.items()
    ]
    return [
        {"apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_GROUP}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": identity.user},
            "subjects": [{"apiGroup": _GROUP, "kind": "User", "name": identity.user}],
        },
    ]
