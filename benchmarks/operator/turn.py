"""One turn: a system is started, given jobs, watched, and everything of it removed."""

import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.operator import audit
from benchmarks.operator.client import MERGE, Client, at_once, wait_until
from benchmarks.operator.samples import Turn
from benchmarks.operator.systems import System
from benchmarks.operator.work import Limits, Work
from benchmarks.usage import forget_peak, usage
from benchmarks.watching import Watch, Wire
from finetune_api.report import Stage
from world import OUTPUT, report

# No write for so long: what was set in motion has come to rest.
_QUIET_SECONDS = 2.0
# Longer than anything should take here; a system that takes longer has failed.
_PATIENCE_SECONDS = 300.0
_PODS = "/api/v1/namespaces/{namespace}/pods"
_CLEANED = (
    "/apis/batch/v1/namespaces/{namespace}/jobs",
    "/api/v1/namespaces/{namespace}/services",
    "/api/v1/namespaces/{namespace}/configmaps",
    "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
)


@dataclass
class Seen:
    """What the watches tell: of each job its pods, and its end."""

    system: System
    arrived: dict[str, list[float]] = field(default_factory=dict)
    pods: dict[str, list[str]] = field(default_factory=dict)
    gone: dict[str, list[float]] = field(default_factory=dict)
    over: dict[str, float] = field(default_factory=dict)
    last_heard: float = 0.0

    def pod(self, type_: str, wire: Wire, when: float) -> None:
        """Something happened to a pod."""
        self.last_heard = when
        name = wire["metadata"]["name"]
        job = job_of(name)
        if type_ == "DELETED":
            self.gone.setdefault(job, []).append(when)
        elif name not in self.pods.setdefault(job, []):
            self.pods[job].append(name)
            self.arrived.setdefault(job, []).append(when)

    def job(self, type_: str, wire: Wire, when: float) -> None:
        """Something happened to a job of the system."""
        self.last_heard = when
        if type_ != "DELETED" and self.system.is_over(wire):
            self.over.setdefault(wire["metadata"]["name"], when)


def name_of(number: int) -> str:
    """Of a job; the names of its pods begin with it."""
    return f"job-{number:04}"


def job_of(pod: str) -> str:
    """The job of a pod by its name, in any of the systems."""
    return pod[: len(name_of(0))]


class Rig:
    """A control plane with an audit log, on which systems have their turns."""

    def __init__(self, kubeconfig: Path, audit_log: Path, limits: Limits, scratch: Path) -> None:
        self._kubeconfig = kubeconfig
        self._audit_log = audit_log
        self._limits = limits
        self._scratch = scratch
        self._client = Client(kubeconfig)

    def turn(self, system: System, work: Work, repetition: int) -> Turn:
        """Measure one system at one work; raises what went wrong there."""
        turn = Turn(self._limits.name, work, system.name, repetition)
        namespace = f"bench-{uuid.uuid4().hex[:8]}"
        rights = self._limits.requests_per_second
        directory = self._scratch / namespace
        with system.running(self._kubeconfig, directory, requests_per_second=rights) as pids:
            self._client.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
            wait_until(lambda: self._there(account), "the namespace has an account", seconds=60)
            seen = Seen(system)
            try:
                with (
                    Watch(self._kubeconfig, _PODS.format(namespace=namespace), seen.pod) as pods,
                    Watch(self._kubeconfig, system.path.format(namespace=namespace), seen.job) as jobs,
                ):
                    _Measurement(self, turn, system, seen, namespace, pids, (pods, jobs)).perform()
            finally:
                self._remove(system, namespace)
        return turn

    def _there(self, path: str) -> bool:
        try:
            self._client.request("GET", path)
        except RuntimeError:
            return False
        return True

    def _remove(self, system: System, namespace: str) -> None:
        """Everything of a turn, by the benchmark itself: the garbage collector would take minutes at its pace."""
        for path in (system.path, "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{namespace}/jobsets", *_CLEANED):
            if self._there(path.format(namespace=namespace)):
                self._client.request("DELETE", path.format(namespace=namespace))
        pods = _PODS.format(namespace=namespace)

        def free(name: str) -> Callable[[Client], None]:
            def task(client: Client) -> None:
                try:
                    client.request("PATCH", f"{pods}/{name}", {"metadata": {"finalizers": None}}, MERGE)
                except RuntimeError as error:
                    if ": 404 " not in str(error):
                        raise

            return task

        def gone() -> bool:
            left = self._client.request("GET", pods)["items"]
            if left:
                self._client.request("DELETE", pods, {"gracePeriodSeconds": 0})
                at_once(self._kubeconfig, [free(pod["metadata"]["name"]) for pod in left])
            return not left

        wait_until(gone, "all pods are gone", seconds=120)
        self._client.request("DELETE", f"/api/v1/namespaces/{namespace}")
        self.wait_for_quiet(self._audit_log.stat().st_size)

    # What is measured at the API server

    def wait_for_quiet(self, position: int) -> None:
        """Wait until nobody writes any more; what is written comes to the log within a second."""
        last = [position, time.monotonic()]

        def quiet() -> bool:
            size, now = self._audit_log.stat().st_size, time.monotonic()
            if size != last[0]:
                last[:] = [size, now]
            return now - last[1] >= _QUIET_SECONDS

        wait_until(quiet, "writes stop", seconds=_PATIENCE_SECONDS)

    def position(self) -> int:
        """The end of the audit log."""
        return self._audit_log.stat().st_size

    def writes_since(self, position: int, namespace: str) -> tuple[Counter[str], Counter[str]]:
        """Of the system's own controllers, and of the controller manager."""
        with self._audit_log.open("rb") as log:
            log.seek(position)
            lines = log.read().decode().splitlines()
        return audit.writes(lines, namespace)

    def reads(self) -> int:
        """GETs and LISTs that the API server has answered so far."""
        pattern = r'^apiserver_request_total\{[^}]*verb="(?:GET|LIST)"[^}]*\} (\S+)$'
        found = re.findall(pattern, self._client.text("/metrics"), re.MULTILINE)
        return sum(int(float(count)) for count in found)

    def at_once(self, tasks: Sequence[Callable[[Client], None]]) -> None:
        """Have tasks done by several threads."""
        at_once(self._kubeconfig, tasks)

    def client(self) -> Client:
        """A connection of the caller's own."""
        return Client(self._kubeconfig)


class _Measurement:
    """What happens in a turn between the start of a system and its removal."""

    def __init__(
        self,
        rig: Rig,
        turn: Turn,
        system: System,
        seen: Seen,
        namespace: str,
        pids: Sequence[int],
        watches: Sequence[Watch],
    ) -> None:
        self._rig, self._turn, self._system, self._seen = rig, turn, system, seen
        self._work, self._pids, self._watches = turn.work, pids, watches
        self._namespace = namespace
        self._jobs = system.path.format(namespace=namespace)
        self._names = [name_of(number) for number in range(turn.work.jobs)]
        self._asked: dict[str, float] = {}

    def perform(self) -> None:
        turn, rig = self._turn, self._rig
        # Controllers that have just started still list what there is.
        time.sleep(_QUIET_SECONDS)
        position, reads = rig.position(), rig.reads()
        forget_peak(self._pids)
        before = usage(self._pids)
        self._launch()
        turn.reads = rig.reads() - reads
        rig.wait_for_quiet(position)
        after = usage(self._pids)
        turn.cpu_seconds = after.cpu_seconds - before.cpu_seconds
        turn.growth_bytes = after.resident_bytes - before.resident_bytes
        turn.launch_writes, _ = rig.writes_since(position, self._namespace)
        if self._work.then == "finish":
            self._finish()
        elif self._work.then == "suspend":
            self._suspend()
        rig.wait_for_quiet(position)
        turn.peak_bytes = usage(self._pids).peak_bytes
        turn.writes, turn.manager_writes = rig.writes_since(position, self._namespace)

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        def still() -> bool:
            for watch in self._watches:
                watch.check()
            return ready()

        wait_until(still, f"{self._system.name}: {what}", seconds=_PATIENCE_SECONDS)

    def _has_pods(self, name: str) -> bool:
        return len(self._seen.arrived.get(name, ())) >= self._work.nodes

    def _launch(self) -> None:
        bodies = {name: self._system.job(name, self._work.nodes) for name in self._names}

        def make(name: str) -> Callable[[Client], None]:
            def task(client: Client) -> None:
                self._asked[name] = time.perf_counter()
                client.request("POST", self._jobs, bodies[name])

            return task

        began = time.perf_counter()
        if self._work.pace == "burst":
            self._rig.at_once([make(name) for name in self._names])
        else:
            client = self._rig.client()
            for number, name in enumerate(self._names):
                if self._work.pace == "steady":
                    time.sleep(max(0.0, began + number / self._work.per_second - time.perf_counter()))
                make(name)(client)
                if self._work.pace == "one by one":
                    self._wait(lambda name=name: self._has_pods(name), f"{name} has its pods")  # type: ignore[misc]
        self._wait(lambda: all(map(self._has_pods, self._names)), "all jobs have their pods")
        arrived = self._seen.arrived
        self._turn.first_pod = [min(arrived[name]) - self._asked[name] for name in self._names]
        self._turn.last_pod = [max(arrived[name]) - self._asked[name] for name in self._names]
        self._turn.complete_at = sorted(max(arrived[name]) - began for name in self._names)

    def _finish(self) -> None:
        """All pods come to a good end, told as by a kubelet; the first of each job leaves the last report."""
        last = report(1, 99, step=36, stage=Stage.FINISHED, output=OUTPUT).to_termination_message()
        pods = _PODS.format(namespace=self._namespace)
        ended: dict[str, float] = {}

        def end(name: str) -> Callable[[Client], None]:
            def task(client: Client) -> None:
                # The first pod last: the report that it leaves counts from then on.
                for pod in sorted(self._seen.pods[name], reverse=True):
                    message = last if pod == min(self._seen.pods[name]) else ""
                    client.request("PATCH", f"{pods}/{pod}/status", self._ended(message), MERGE)
                ended[name] = time.perf_counter()

            return task

        self._rig.at_once([end(name) for name in self._names])
        self._wait(lambda: len(self._seen.over) == len(self._names), "all jobs have come to their end")
        self._turn.ended = [self._seen.over[name] - ended[name] for name in self._names]

    def _ended(self, message: str) -> dict[str, Any]:
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        state = {"terminated": {"exitCode": 0, "message": message, "finishedAt": finished}}
        container = {"name": self._system.container, "ready": False, "restartCount": 0, "state": state}
        statuses = [container | {"image": "i", "imageID": "i"}]
        return {"status": {"phase": "Succeeded", "containerStatuses": statuses}}

    def _suspend(self) -> None:
        asked: dict[str, float] = {}

        def suspend(name: str) -> Callable[[Client], None]:
            def task(client: Client) -> None:
                asked[name] = time.perf_counter()
                client.request("PATCH", f"{self._jobs}/{name}", {"spec": {"suspend": True}}, MERGE)

            return task

        self._rig.at_once([suspend(name) for name in self._names])
        gone = self._seen.gone
        nodes = self._work.nodes
        self._wait(
            lambda: all(len(gone.get(name, ())) >= nodes for name in self._names), "no suspended job has pods"
        )
        self._turn.suspended = [max(gone[name]) - asked[name] for name in self._names]
