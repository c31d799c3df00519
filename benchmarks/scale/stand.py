"""What is measured on: a control plane with nodes of kwok, its jobs, and the operator as a process."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.operator.client import Client, at_once
from benchmarks.scale import jobs, scrape
from benchmarks.scale.scrape import Scrape
from benchmarks.scale.sizes import Size
from benchmarks.usage import Usage, usage
from cluster.kube import Kube, Namespace, eventually
from cluster.operators import Operator
from cluster.scheduling import bind_claims, scheduler
from clusters.addons.kwok import Kwok
from clusters.local import ControlPlane

NAMESPACE = "team"
JOBS = f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_NODES = 20
# The clients of Kubernetes' own controllers would take a quarter of an hour for the pods alone.
_RATE = ("--kube-api-qps=1000", "--kube-api-burst=1000")
_PATIENCE_SECONDS = 300.0
_LOOK_SECONDS = 0.5


class MeasuredOperator(Operator):
    """The operator as its image starts it, and what it takes."""

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid  # type: ignore[attr-defined, no-any-return]

    @property
    def usage(self) -> Usage:
        """What it has taken since it was started."""
        return usage([self.pid])

    @property
    def last_list(self) -> float:
        """When it made its last periodic list, in seconds since the epoch."""
        return self.scrape().total("finetune_last_list_timestamp_seconds")

    def scrape(self) -> Scrape:
        """Its metrics as they are now."""
        return scrape.parse(self.get("/metrics")[1])

    def knows(self, count: int) -> bool:
        """Whether it knows the phases of so many jobs, each counted once, and has nothing left to do."""
        now = self.scrape()
        waiting = now.total("finetune_queue_depth") + now.total("finetune_queue_in_flight")
        return now.total("finetune_jobs") >= count and waiting == 0


class Stand:
    """Jobs are made on it, more and more of them."""

    def __init__(self, kubeconfig: Path, operator: MeasuredOperator, check: Callable[[], None]) -> None:
        """`check` raises if something that the jobs need has ended."""
        self.kubeconfig = kubeconfig
        self.operator = operator
        self.client = Client(kubeconfig)
        self.size = Size(0, 0)
        self._check = check

    def finish(self, count: int) -> None:
        """Make jobs that are over, until there are so many; the operator must not run meanwhile."""
        at_once(self.kubeconfig, [_finished(number) for number in range(self.size.finished, count)])
        self.size = Size(self.size.running, count)

    def run(self, count: int) -> None:
        """Make jobs until the pods of so many run, by way of the operator, which is to run, scheduler and kwok."""
        at_once(self.kubeconfig, [_running(number) for number in range(self.size.running, count)])

        def all_run() -> bool:
            self._check()
            pods = self.client.request("GET", PODS)["items"]
            running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
            return len(running) >= 2 * count

        patiently(all_run, f"the pods of {count} jobs run", seconds=_PATIENCE_SECONDS)
        self.size = Size(count, self.size.finished)

    def wait_for_running(self) -> None:
        """Wait until the operator has heard of all running jobs that they train."""
        count = self.size.running
        patiently(
            lambda: self.operator.scrape().total("finetune_jobs", phase="Running") >= count,
            f"{count} jobs are Running",
            seconds=_PATIENCE_SECONDS,
        )

    def start(self) -> float:
        """Start the operator; returns the seconds until it knows of every job and has nothing left to do."""
        began = time.monotonic()
        self.operator.start()
        jobs_ = self.size.jobs
        patiently(
            lambda: self.operator.knows(jobs_), f"{jobs_} jobs are looked at", seconds=_PATIENCE_SECONDS
        )
        return time.monotonic() - began


def patiently(ready: Callable[[], bool], what: str, *, seconds: float) -> None:
    """Wait for something, looking so seldom that it is not held up; TimeoutError says what has not come."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not so after {seconds:.0f} s")
        time.sleep(_LOOK_SECONDS)


def job_name(number: int) -> str:
    """Of a running job."""
    return f"run-{number:05}"


@contextmanager
def stand(scratch: Path) -> Iterator[Stand]:
    """The whole stand, while the context lasts; the operator is not started."""
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(controller_manager_options=_RATE))
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        kwok = stack.enter_context(Kwok(plane.kubeconfig, nodes=_NODES))
        (scratch / "scheduler").mkdir()
        stack.enter_context(scheduler(plane.kubeconfig, scratch / "scheduler", *_RATE))
        kube.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
        eventually(lambda: kube.request("GET", account))
        bind_claims(Namespace(kube, NAMESPACE), "models", "data", "runs")
        (scratch / "operator").mkdir()
        operator = MeasuredOperator(plane.kubeconfig, scratch / "operator")
        stack.callback(operator.kill)
        yield Stand(plane.kubeconfig, operator, kwok.check)


def _finished(number: int) -> Callable[[Client], None]:
    name = f"done-{number:05}"
    manifest, status = jobs.finished(name)

    def task(client: Client) -> None:
        made = client.request("POST", JOBS, manifest)
        client.request("PUT", f"{JOBS}/{name}/status", made | {"status": status})

    return task


def _running(number: int) -> Callable[[Client], None]:
    def task(client: Client) -> None:
        client.request("POST", JOBS, jobs.running(job_name(number)))

    return task
