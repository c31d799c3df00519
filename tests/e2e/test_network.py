"""Who reaches whom: connections that pods try, first without the policies and then with them.

That a gang still trains behind its policy is shown by every other test of this folder that trains on two nodes.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deploy import NAMESPACE, RELEASE
from e2e.jobs import manifest, poll
from e2e.namespace import Namespace
from finetune_api import names
from finetune_api.spec import FineTuneJob
from finetune_operator.objects import workload
from world import INSTALLATION

# torch's collectives listen on ports that the system picks, beside that of the rendezvous.
PORTS = (names.MASTER_PORT, 41234)
LISTEN = """
import socket, sys, threading
listeners = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
print("listening", flush=True)
def serve(listener):
    while True:
        listener.accept()[0].close()
for listener in listeners:
    threading.Thread(target=serve, args=(listener,)).start()
"""
# Time enough for a second try of the kernel's own.
TRY = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def reaches(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2.5).close()
    except TimeoutError:
        return False
    return True
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(reaches, sys.argv[1:])))))
"""
SLEEP = "import time; time.sleep(3600)"
JOB, OTHER = "net", "other"
OPERATOR = f"{RELEASE}.{NAMESPACE}.svc"
REPORT, WEBHOOK, METRICS = 8443, 9443, 8080


def labels(job: str, attempt: int) -> dict[str, str]:
    """Those of a pod of an attempt, or of another step."""
    return workload.labels(job, attempt)


# The pods that try, and who they are.
CALLERS: dict[str, dict[str, str]] = {
    "peer": labels(JOB, 2),
    "earlier": labels(JOB, 1),
    "other": labels(OTHER, 2),
    "nobody": {},
}
ABROAD = "abroad"
"""One of another namespace, with the labels of a peer."""


def pod(name: str, marks: dict[str, str], image: str, *command: str) -> dict[str, Any]:
    """A pod that runs a Python program in the operator's image."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": marks},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "c",
                    "image": image,
                    "command": ["python", "-c", *command],
                    "securityContext": security,
                }
            ],
        },
    }


def policy(namespace: str, number: int) -> dict[str, Any]:
    """The NetworkPolicy as the operator makes it for a step of a job; without an owner, for there is no such job."""
    wire = manifest(JOB if number > 0 else OTHER, nodes=2)
    wire["metadata"] |= {"namespace": namespace, "uid": "none"}
    job = FineTuneJob.model_validate(wire)
    made = (
        workload.attempt(job, number, INSTALLATION, prepared={})
        if number > 0
        else workload.preparation(job, INSTALLATION)
    )
    [found] = [one for one in made if one["kind"] == "NetworkPolicy"]
    del found["metadata"]["ownerReferences"]
    return found


class Net:
    """The pods that listen, those that try, and what they reach."""

    def __init__(self, home: Namespace, abroad: Namespace, image: str) -> None:
        self._homes = dict.fromkeys(CALLERS, home) | {ABROAD: abroad}
        listen = (LISTEN, *map(str, PORTS))
        home.apply(pod("gang", labels(JOB, 2), image, *listen))
        home.apply(pod("preparing", labels(OTHER, names.PREPARATION), image, *listen))
        for name, marks in CALLERS.items():
            home.apply(pod(name, marks, image, SLEEP))
        abroad.apply(pod(ABROAD, labels(JOB, 2), image, SLEEP))
        for namespace in (home, abroad):
            namespace.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=180s")
        self.addresses = {name: home.get("pod", name)["status"]["podIP"] for name in ("gang", "preparing")}

    def reached(self, *addresses: str) -> dict[str, set[str]]:
        """By caller, which of these addresses answer."""

        def ask(caller: str) -> set[str]:
            command = ("exec", caller, "--", "python", "-c", TRY, *addresses)
            answers = json.loads(self._homes[caller].kubectl(*command))
            return {address for address, answered in answers.items() if answered}

        with ThreadPoolExecutor(len(self._homes)) as pool:
            return dict(zip(self._homes, pool.map(ask, self._homes), strict=True))

    def of(self, listener: str) -> list[str]:
        """Where this pod listens."""
        return [f"{self.addresses[listener]}:{port}" for port in PORTS]


@pytest.fixture(scope="module")
def net(namespace: Namespace, neighbour: Namespace) -> Net:
    """Pods that all reach one another, behind the policies since."""
    deployed = json.loads(
        namespace.kubectl("--namespace", NAMESPACE, "get", "deployment", RELEASE, "--output=json")
    )
    [container] = deployed["spec"]["template"]["spec"]["containers"]
    net = Net(namespace, neighbour, container["image"])
    everything = [*net.of("gang"), *net.of("preparing")]
    poll(lambda: all(len(found) == 4 for found in net.reached(*everything).values()), seconds=60)
    namespace.apply(policy(namespace.name, 2))
    namespace.apply(policy(namespace.name, names.PREPARATION))
    # It takes a moment until everybody on the way has heard of them. Where nothing enforces policies, it is in vain.
    poll(lambda: not net.reached(*everything)["nobody"], seconds=30)
    return net


def test_only_pods_of_the_same_attempt_reach_a_gang(net: Net) -> None:
    gang = net.of("gang")
    strangers = {"earlier", "other", "nobody", ABROAD}
    assert net.reached(*gang) == {"peer": set(gang)} | {stranger: set() for stranger in strangers}


def test_nobody_reaches_the_pod_that_prepares(net: Net) -> None:
    assert net.reached(*net.of("preparing")) == {caller: set() for caller in (*CALLERS, ABROAD)}


def test_pods_of_jobs_alone_report_to_the_operator_and_none_reads_its_metrics(net: Net) -> None:
    report, webhook, metrics = (f"{OPERATOR}:{port}" for port in (REPORT, WEBHOOK, METRICS))
    of_jobs = {caller: {report, webhook} for caller in ("peer", "earlier", "other", ABROAD)}
    assert net.reached(report, webhook, metrics) == of_jobs | {"nobody": {webhook}}
