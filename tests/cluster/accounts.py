"""Service accounts with rights of their own, as people and GitOps tools have them."""

import uuid
from pathlib import Path
from typing import Any

import yaml

from cluster.kube import Kube, Namespace

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
ACCOUNTS = "/api/v1/namespaces/{namespace}/serviceaccounts"
# Someone who may write FineTuneJobs and nothing else.
WRITES_JOBS = {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["*"]}


def may_read(resource: str, *names: str) -> dict[str, Any]:
    """The right to get objects with these names, or all of them."""
    rule: dict[str, Any] = {"apiGroups": [""], "resources": [resource], "verbs": ["get"]}
    return rule | ({"resourceNames": list(names)} if names else {})


def account(namespace: Namespace, directory: Path, *rules: dict[str, Any]) -> Namespace:
    """The namespace as a new service account of it sees it that may write FineTuneJobs, and what `rules` allow."""
    name = f"account-{uuid.uuid4().hex[:8]}"
    namespace.create(ACCOUNTS, {"metadata": {"name": name}})
    namespace.create(f"{RBAC}/roles", {"metadata": {"name": name}, "rules": [WRITES_JOBS, *rules]})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace.name}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
    namespace.create(f"{RBAC}/rolebindings", binding)
    token = namespace.kube.request("POST", namespace.path(ACCOUNTS, f"{name}/token"), {"spec": {}})
    content = yaml.safe_load(namespace.kube.kubeconfig.read_text())
    content["users"] = [{"name": name, "user": {"token": token["status"]["token"]}}]
    for context in content["contexts"]:
        context["context"]["user"] = name
    file = directory / f"{name}.kubeconfig"
    file.write_text(yaml.safe_dump(content))
    return Namespace(Kube(file), namespace.name)
