"""What is on the API server, by the names that its URLs have."""

from typing import NamedTuple

from finetune_api import names
from finetune_operator import kueue
from finetune_operator.objects import pod_groups


class Key(NamedTuple):
    """A FineTuneJob."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Resource(NamedTuple):
    """A kind of object, as its URL spells it."""

    group_version: str
    plural: str

    @property
    def root(self) -> str:
        """Where its group lies on the API server."""
        return f"{'/apis' if '/' in self.group_version else '/api'}/{self.group_version}"

    def path(self, namespace: str | None, name: str = "") -> str:
        """The objects of a namespace, or one of them; those of all namespaces if it is None."""
        where = self.root if namespace is None else f"{self.root}/namespaces/{namespace}"
        return f"{where}/{self.plural}" + (name and f"/{name}")


FINETUNEJOBS = Resource(names.API_VERSION, names.PLURAL)
JOBS = Resource("batch/v1", "jobs")
PODS = Resource("v1", "pods")
EVENTS = Resource("v1", "events")
CONFIGMAPS = Resource("v1", "configmaps")
# What the operator applies, by kind; a PodGroup comes in the version of its scheduler.
APPLIED = {
    "ConfigMap": CONFIGMAPS,
    "Service": Resource("v1", "services"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Job": JOBS,
}
WORKLOADS = tuple(Resource(f"{kueue.GROUP}/{version}", "workloads") for version in kueue.VERSIONS)


def resource_of(kind: str, api_version: str) -> Resource:
    """The kind of an object that the operator applies."""
    return Resource(api_version, "podgroups") if kind == pod_groups.KIND else APPLIED[kind]
