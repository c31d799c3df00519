"""The measurements, in the order in which they are made."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.operator.client import MERGE, Client
from benchmarks.scale import jobs
from benchmarks.scale.reporting import Trainers
from benchmarks.scale.sizes import Course, Size
from benchmarks.scale.stand import JOBS, PODS, Stand, patiently
from benchmarks.scale.trainers import Told
from benchmarks.usage import forget_peak, machine_cpu_seconds
from benchmarks.watching import Watch, Wire

RECONCILE, WAIT = "finetune_reconcile_seconds", "finetune_queue_wait_seconds"
LAG = "finetune_event_loop_lag_seconds"
_STRATEGIC_MERGE = "application/strategic-merge-patch+json"
_PATCHERS = 8
# Between two probes of a storm.
_PROBE_SECONDS = 0.5
# What is left of a rate that is kept, since the last change has to be answered, too.
_BORNE = 0.9


@dataclass
class Point:
    """What was measured with so many jobs."""

    size: Size
    restart_seconds: float = 0.0
    """From SIGKILL's successor being started until it knew of every job and nothing waited."""
    restart_cpu_seconds: float = 0.0
    peak_bytes: int = 0
    """The most that the operator held, from its start on, with the restart in it."""
    steady_bytes: int = 0
    """What it held when it had been at rest for a while."""
    steady_share: float = 0.0
    """Of one CPU, at rest; nobody reports, and no look at all jobs falls into that time."""
    report_interval_seconds: float = 0.0
    """What the trainers were asked to wait for between two reports, when all of them had begun."""


@dataclass
class Storm:
    """Many pods change at once."""

    asked_per_second: int
    """How many changes were to be made,"""
    events: int
    """and how many that came to in all."""
    annotations: bool = False
    """Whether it is annotations that change, of which a look reads nothing, and not statuses, of which it reads all."""
    seconds: float = 0.0
    """How long it took to make them: longer than it should where the API server takes no more."""
    reconciles: float = 0.0
    wait_seconds: float = 0.0
    """p99 of the time in the queue, by the operator's metrics."""
    reconcile_seconds: float = 0.0
    """p99 of the time in hand, by the same."""
    handled_seconds: list[float] = field(default_factory=list)
    """From asking for new jobs, one every half second, until their status told that they had been looked at."""
    cpu_seconds: float = 0.0
    machine_share: float = 0.0
    """Of all CPUs, used by whatever: API server, etcd and the controllers of Kubernetes, kwok, and who measures."""

    @property
    def events_per_second(self) -> float:
        """What came of it."""
        return self.events / self.seconds

    @property
    def was_borne(self) -> bool:
        """Whether the API server took the changes as fast as they were to come."""
        return self.events_per_second >= _BORNE * self.asked_per_second


@dataclass
class Reporting:
    """All running jobs report."""

    first: Told
    """When nobody's token had been reviewed."""
    told: Told
    """From then on."""
    seconds: float
    cpu_seconds: float
    status_writes: float
    peak_bytes: int
    lag_seconds: float
    """p99 of the time by which the operator's event loop came too late, by its metrics."""


@dataclass
class Result:
    """All of it."""

    points: list[Point] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)
    """Rising."""
    reporting: Reporting | None = None
    failures: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    @contextmanager
    def spared(self) -> Iterator[None]:
        """What fails within is told in the end; what else is measured, and has been, is not lost."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self.failures.append(f"{type(error).__name__}: {error}")


def perform(stand: Stand, course: Course, result: Result, say: Callable[[str], None]) -> None:
    """Measure everything. Raises where jobs cannot be brought up; what was measured until then is in `result`."""
    for size in course.sizes:
        last = size is course.sizes[-1]
        result.points.append(_point(stand, size, course, say, last=last))
    say("reports of all running jobs")
    with result.spared():
        result.reporting = _reporting(stand, course)
    for annotations in (True, False):
        # Of annotations the largest will do.
        for per_second in course.storms[-1:] if annotations else course.storms:
            what = "annotations" if annotations else "statuses"
            say(f"a storm of {per_second} pod events per second: {what} change")
            with result.spared():
                storm = Storm(per_second, round(per_second * course.storm_seconds), annotations)
                result.storms.append(_performed(stand, storm))


def _point(stand: Stand, size: Size, course: Course, say: Callable[[str], None], *, last: bool) -> Point:
    operator = stand.operator
    say(f"{size.finished:,} finished jobs are made")
    stand.finish(size.finished)
    stand.start()
    say(f"{size.running:,} jobs are started")
    stand.run(size.running)
    point = Point(size)
    with Trainers(stand) as trainers:
        point.report_interval_seconds = trainers.begin()
    stand.wait_for_running()
    say(f"restart with {size.jobs:,} jobs")
    operator.kill()
    point.restart_seconds = stand.start()
    point.restart_cpu_seconds = operator.usage.cpu_seconds
    time.sleep(course.settle_seconds)
    listed, before, began = operator.last_list, operator.usage, time.monotonic()
    time.sleep(course.steady_seconds if last else course.steady_seconds / 3)
    if last:
        patiently(lambda: operator.last_list > listed, "a periodic list is made", seconds=300)
    after = operator.usage
    point.steady_share = (after.cpu_seconds - before.cpu_seconds) / (time.monotonic() - began)
    point.steady_bytes, point.peak_bytes = after.resident_bytes, after.peak_bytes
    say(
        f"restart {point.restart_seconds:.1f} s ({point.restart_cpu_seconds:.1f} s of CPU), "
        f"memory {point.steady_bytes / 2**20:.0f} MiB, at its peak {point.peak_bytes / 2**20:.0f} MiB, "
        f"at rest {100 * point.steady_share:.1f} % of a CPU"
    )
    if not last:
        operator.kill()
    return point


def _reporting(stand: Stand, course: Course) -> Reporting:
    operator = stand.operator
    with Trainers(stand) as trainers:
        # The first reports find out who is there, and how long to wait; what follows is steady.
        first = trainers.report(course.reporting_seconds / 3)
        forget_peak([operator.pid])
        before, numbers = operator.usage, operator.scrape()
        began = time.monotonic()
        told = trainers.report(course.reporting_seconds)
        seconds = time.monotonic() - began
    after, since = operator.usage, operator.scrape().since(numbers)
    if refused := first.refused + told.refused:
        raise RuntimeError(f"{len(refused)} reports were refused, such as: {refused[0]}")
    writes = since.total("finetune_api_requests_total", verb="patch", resource="finetunejobs")
    writes += since.total("finetune_api_requests_total", verb="put", resource="finetunejobs")
    return Reporting(
        first,
        told,
        seconds,
        cpu_seconds=after.cpu_seconds - before.cpu_seconds,
        status_writes=writes,
        peak_bytes=after.peak_bytes,
        lag_seconds=since.quantile(LAG, 0.99),
    )


def _performed(stand: Stand, storm: Storm) -> Storm:
    pods = [pod["metadata"]["name"] for pod in stand.client.request("GET", PODS)["items"]]
    operator = stand.operator
    numbers, before, of_all = operator.scrape(), operator.usage, machine_cpu_seconds()
    began = time.monotonic()

    def patch(patcher: int) -> None:
        client = Client(stand.kubeconfig)
        for number in range(patcher, storm.events, _PATCHERS):
            time.sleep(max(0.0, began + number / storm.asked_per_second - time.monotonic()))
            change, path = f"{storm.asked_per_second}-{number}", f"{PODS}/{pods[number % len(pods)]}"
            if storm.annotations:
                client.request(
                    "PATCH", path, {"metadata": {"annotations": {"benchmark/change": change}}}, MERGE
                )
            else:
                condition = {"type": "benchmark/change", "status": "True", "message": change}
                client.request(
                    "PATCH", f"{path}/status", {"status": {"conditions": [condition]}}, _STRATEGIC_MERGE
                )

    with _probes(stand, storm) as probe, ThreadPoolExecutor(_PATCHERS) as patchers:
        work = [patchers.submit(patch, patcher) for patcher in range(_PATCHERS)]
        while not all(one.done() for one in work):
            probe()
            time.sleep(_PROBE_SECONDS)
        for one in work:
            one.result()
        storm.seconds = time.monotonic() - began
        storm.cpu_seconds = operator.usage.cpu_seconds - before.cpu_seconds
        storm.machine_share = (machine_cpu_seconds() - of_all) / storm.seconds / (os.cpu_count() or 1)
    patiently(lambda: operator.knows(0), "the storm is over", seconds=60)
    since = operator.scrape().since(numbers)
    storm.reconciles = since.total(f"{RECONCILE}_count")
    storm.wait_seconds, storm.reconcile_seconds = (since.quantile(name, 0.99) for name in (WAIT, RECONCILE))
    return storm


@contextmanager
def _probes(stand: Stand, storm: Storm) -> Iterator[Callable[[], None]]:
    """Gives what makes a probe: a suspended job, whose status tells when it has been looked at."""
    client, asked, seen = Client(stand.kubeconfig), dict[str, float](), dict[str, float]()

    def heard(type_: str, wire: Wire, when: float) -> None:
        if wire.get("status", {}).get("phase"):
            seen.setdefault(wire["metadata"]["name"], when)

    def probe() -> None:
        what = "annotations" if storm.annotations else "statuses"
        name = f"probe-{what}-{storm.asked_per_second}-{len(asked):04}"
        asked[name] = time.perf_counter()
        client.request("POST", JOBS, jobs.suspended(name))

    with Watch(stand.kubeconfig, JOBS, heard) as watch:
        yield probe
        patiently(lambda: asked.keys() <= seen.keys(), "all probes are looked at", seconds=120)
        watch.check()
    storm.handled_seconds += [seen[name] - asked[name] for name in asked]
