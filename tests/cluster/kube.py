"""The API server as these tests see it, and a kubelet that they play themselves."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import config
from kubernetes.client import Configuration

from finetune_api import names
from finetune_api.crd import custom_resource_definition
from world import found, manifest

T = TypeVar("T")
Wire = dict[str, Any]

FINETUNEJOBS = "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs"
PODS = "/api/v1/namespaces/{namespace}/pods"
SERVICES = "/api/v1/namespaces/{namespace}/services"
CONFIGMAPS = "/api/v1/namespaces/{namespace}/configmaps"
NETWORK_POLICIES = "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
MERGE = "application/merge-patch+json"
# The state of a container of which its kubelet says no more.
CREATING = {"waiting": {"reason": "ContainerCreating"}}
# A Job of somebody's own that has the name of the demo job's first attempt.
BARE_JOB = {
    "metadata": {"name": "demo-1"},
    "spec": {
        "suspend": True,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
    },
}


class RefusedError(Exception):
    """The API server's answer, when it is not 2xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


def eventually(what: Callable[[], T], *, seconds: float = 30) -> T:
    """The first true value of `what`; what it raises on the way is raised when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := what():
                return value
            problem: Exception = AssertionError(f"still {value!r} after {seconds} s")
        except (AssertionError, KeyError, ValueError, RefusedError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(0.05)


class Kube:
    """Requests with a kubeconfig's credentials."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._client = config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]

    @property
    def configuration(self) -> Configuration:
        """Where the API server is, and what it believes."""
        found: Configuration = self._client.configuration
        return found

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> Wire:
        """One request; raises RefusedError."""
        answer: Wire = json.loads(self._ask(method, path, body, content_type, query))
        return answer

    def since(self, path: str, version: str) -> list[Wire]:
        """What became of the objects there after a resourceVersion, change by change, as a watch tells it."""
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1"}
        changes = self._ask("GET", path, None, "application/json", query).splitlines()
        return [json.loads(change) for change in changes]

    def _ask(self, method: str, path: str, body: Any, content_type: str, query: dict[str, str]) -> str:
        arguments = self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(*arguments)
        text: str = response.read().decode()
        if not 200 <= response.status < 300:
            raise RefusedError(response.status, text)
        return text

    def install_crd(self) -> None:
        """Install the CRD of this checkout; not a word in it may be unknown to the API server."""
        self.request(
            "PATCH",
            f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}",
            custom_resource_definition(),
            "application/apply-patch+yaml",
            fieldManager="tests",
            fieldValidation="Strict",
        )
        eventually(lambda: self.request("GET", "/apis/finetune.dev/v1alpha1/finetunejobs"))

    @contextmanager
    def namespace(self, name: str | None = None) -> Iterator["Namespace"]:
        """A namespace with this name, or a random one, gone in the end."""
        name = name or f"test-{uuid.uuid4().hex[:8]}"
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        # Controllers whose API server was away look for it again the more rarely, the longer it was.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        eventually(lambda: self.request("GET", account), seconds=120)
        made = Namespace(self, name)
        yield made
        # First, for the namespace itself is long in going, and operators would work on.
        self.request("DELETE", made.path(FINETUNEJOBS))
        self.request("DELETE", f"/api/v1/namespaces/{name}")


@dataclass(frozen=True)
class Namespace:
    """A namespace of a test's own."""

    kube: Kube
    name: str

    def path(self, template: str, name: str = "") -> str:
        return template.format(namespace=self.name) + (name and f"/{name}")

    def all(self, template: str, **query: str) -> list[Wire]:
        found: list[Wire] = self.kube.request("GET", self.path(template), **query)["items"]
        return found

    def get(self, template: str, name: str) -> Wire:
        return self.kube.request("GET", self.path(template, name))

    def create(self, template: str, body: Wire) -> Wire:
        return self.kube.request("POST", self.path(template), body)

    def patch(self, template: str, name: str, body: Wire) -> Wire:
        return self.kube.request("PATCH", self.path(template, name), body, MERGE)

    def delete(self, template: str, name: str, **options: Any) -> None:
        self.kube.request("DELETE", self.path(template, name), options or None)

    # FineTuneJobs

    def submit(self, name: str = "demo", **spec: Any) -> Wire:
        """Create a FineTuneJob for two CPU pods."""
        return self.create(FINETUNEJOBS, manifest(name, **spec))

    def begin(self, name: str = "demo", **spec: Any) -> Wire:
        """Create a FineTuneJob, and have its data prepared."""
        submitted = self.submit(name, **spec)
        # Pods of a deleted namesake are gone by then.
        self.in_phase("Preparing", name)
        [pod] = self.pods(name, count=1, attempt=names.PREPARATION)
        self.end_pod(pod, 0, found().to_termination_message())
        return submitted

    def job(self, name: str = "demo") -> Wire:
        return self.get(FINETUNEJOBS, name)

    def status(self, name: str = "demo") -> Wire:
        found: Wire = self.job(name)["status"]
        return found

    def condition(self, type_: str, name: str = "demo") -> Wire:
        [found] = [c for c in self.status(name)["conditions"] if c["type"] == type_]
        assert isinstance(found, dict)
        return found

    def in_phase(self, phase: str, name: str = "demo", *, seconds: float = 30) -> Wire:
        """Wait until the job is in this phase; returns its status."""

        def reached() -> Wire | None:
            status = self.status(name)
            assert status.get("phase") == phase, status
            return status

        status = eventually(reached, seconds=seconds)
        assert status is not None
        return status

    def told(self, name: str = "demo") -> list[tuple[str, str]]:
        """Reasons and words of the events about a FineTuneJob, oldest first."""
        found = [e for e in self.all(EVENTS) if e["regarding"]["kind"] == "FineTuneJob"]
        found = [e for e in found if e["regarding"]["name"] == name]
        return [(e["reason"], e.get("note", "")) for e in sorted(found, key=lambda e: str(e["eventTime"]))]

    def events(self, name: str = "demo") -> list[str]:
        """Reasons of them."""
        return [reason for reason, _ in self.told(name)]

    def belongings(self, name: str = "demo") -> list[str]:
        """Everything that carries the job's label."""
        return [
            f"{template.rsplit('/', 1)[1]}/{found['metadata']['name']}"
            for template in (JOBS, PODS, SERVICES, CONFIGMAPS, NETWORK_POLICIES)
            for found in self.all(template, labelSelector=f"finetune.dev/job={name}")
        ]

    # The kubelet

    def pods(self, name: str = "demo", *, count: int = 2, attempt: int = 1) -> list[str]:
        """Wait for the pods of an attempt; returns their names by rank."""
        selector = f"finetune.dev/job={name},finetune.dev/attempt={names.attempt_label(attempt)}"

        def all_there() -> list[Wire]:
            found = self.all(PODS, labelSelector=selector)
            assert len(found) == count, [pod["metadata"]["name"] for pod in found]
            return found

        return sorted(pod["metadata"]["name"] for pod in eventually(all_there))

    def set_pod(self, pod: str, phase: str, state: Wire | None = None, **status: Any) -> None:
        """Report a pod's state as its kubelet would."""
        container = {"name": "trainer", "ready": False, "restartCount": 0, "image": "i", "imageID": "i"}
        self.kube.request(
            "PATCH",
            self.path(PODS, pod) + "/status",
            {
                "status": {
                    "phase": phase,
                    "containerStatuses": [container | {"state": state}] if state else [],
                }
                | status
            },
            MERGE,
        )

    def run_pods(self, pods: list[str]) -> None:
        for pod in pods:
            self.set_pod(pod, "Running", {"running": {"startedAt": "2026-01-01T12:00:00Z"}})

    def end_pod(self, pod: str, exit_code: int, message: str = "", reason: str = "") -> None:
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        terminated = {"exitCode": exit_code, "message": message, "reason": reason, "finishedAt": finished}
        self.set_pod(pod, "Failed" if exit_code else "Succeeded", {"terminated": terminated})

    def warn(self, pod: str, reason: str, message: str) -> None:
        """Post an event about a pod as its kubelet would."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.create(
            "/api/v1/namespaces/{namespace}/events",
            {
                "metadata": {"generateName": f"{pod}."},
                "involvedObject": {"kind": "Pod", "name": pod, "namespace": self.name},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            },
        )

    def token(self, pod: str, *, audience: str = "finetune.dev", bound: bool = True) -> str:
        """What the kubelet would project into the pod."""
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 3600}
            | ({"boundObjectRef": reference} if bound else {}),
        }
        path = f"/api/v1/namespaces/{self.name}/serviceaccounts/default/token"
        token: str = self.kube.request("POST", path, body)["status"]["token"]
        return token
