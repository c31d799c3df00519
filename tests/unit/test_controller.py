"""What is counted, and what is tried again, where the API server does not do as it is asked."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from finetune_api.failure import ExitCode
from finetune_api.report import Stage
from finetune_api.status import Condition, FineTuneJobStatus, Phase
from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.controller import GOING_SECONDS, Controller
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key
from finetune_operator.lifecycle.gang import LONG_WAIT
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation.observed import GangJob, Observed, Subject, Taken
from finetune_operator.observing import is_at_rest
from finetune_operator.queue import TryAgainError
from finetune_operator.status.conditions import PROGRESSING, STALLED, find
from finetune_operator.status.transitions import Event
from world import INLINE, INSTALLATION, OUTPUT, PUBLISH, START, World, manifest, report, stored, submitted

KEY = Key("team", "demo")
VERSION = "7"


class Refusing(Cluster):
    """A cluster that has but one answer."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def subject(self, key: Key) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "result", "raised"),
    [
        (ApiError(404, "gone"), "gone", None),
        (ApiError(403, "in namespace team because it is being terminated"), "gone", None),
        (ApiError(409, "written meanwhile"), "conflict", TryAgainError),
        (ApiError(429, "too many", retry_after=7), "unavailable", TryAgainError),
        (ApiError(503, "starting"), "unavailable", TryAgainError),
        (aiohttp.ClientConnectionError(), "unavailable", TryAgainError),
        (TimeoutError(), "unavailable", TryAgainError),
        (ApiError(403, "no right"), "error", ApiError),
        (ValueError("a bug"), "error", ValueError),
    ],
    ids=str,
)
async def test_a_turn_is_counted_by_how_it_ended(
    error: Exception, result: str, raised: type[Exception] | None
) -> None:
    metrics = Metrics()
    controller = Controller(Refusing(error), Reports(), lambda: INSTALLATION, metrics)
    if raised is None:
        assert await controller.handle(Key("team", "demo")) is None
    else:
        with pytest.raises(raised):
            await controller.handle(Key("team", "demo"))
    counts = {
        sample.labels["result"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "finetune_reconcile_seconds_count"
    }
    assert {name for name, count in counts.items() if count} == {result}
    assert counts[result] == 1


class Unreadable(Cluster):
    """A cluster with a FineTuneJob whose status another version wrote; what is done there is noted."""

    def __init__(self) -> None:
        self.field = "mood"
        self.told: list[tuple[str, str]] = []
        self.conditions: list[Manifest] = []
        self.written = 0

    async def finetunejob(self, key: Key) -> Manifest:
        status = {"phase": "Running", self.field: 1, "conditions": self.conditions}
        named = {"namespace": key.namespace, "uid": "1", "generation": 1, "resourceVersion": "7"}
        wire = manifest(key.name)
        return wire | {"metadata": wire["metadata"] | named, "status": status}

    async def post(self, subject: Subject, event: Event) -> None:
        self.told.append((event.reason, event.message))

    async def write_conditions(self, subject: Subject, conditions: Sequence[Condition]) -> None:
        self.conditions = [condition.to_wire() for condition in conditions]
        self.written += 1


async def test_a_status_that_cannot_be_read_is_told_once_and_not_acted_upon() -> None:
    cluster = Unreadable()
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    for _ in range(3):
        assert await controller.handle(Key("team", "demo")) == 300
    [(reason, words)] = cluster.told
    assert reason == "StatusUnreadable"
    assert "status.mood: there is no such field" in words
    assert cluster.written == 1
    shown = {told["type"]: (told["status"], told["reason"]) for told in cluster.conditions}
    assert shown == {
        "Ready": ("False", reason),
        "Reconciling": ("False", reason),
        "Stalled": ("True", reason),
    }
    assert "status.mood" in cluster.conditions[0]["message"]
    cluster.field = "colour"
    await controller.handle(Key("team", "demo"))
    assert "status.colour" in cluster.told[-1][1]
    assert "status.colour" in cluster.conditions[0]["message"]


class Beginning(Cluster):
    """A cluster with a FineTuneJob that has just been made; what is done there is noted."""

    def __init__(self, *, obstacle: Exception | None = None) -> None:
        """`obstacle` is what a first look at what is in the way meets."""
        self.done: list[str] = []
        self.obstacle = obstacle

    async def subject(self, key: Key) -> Subject:
        self.done.append("read")
        return submitted(dataset=INLINE)

    async def belongings(self, subject: Subject) -> Observed:
        self.done.append("look")
        if (obstacle := self.obstacle) is not None:
            self.obstacle = None
            raise obstacle
        return Observed()

    async def write_status(self, subject: Subject, status: FineTuneJobStatus) -> Manifest:
        self.done.append("write")
        return stored(status, dataset=INLINE)

    async def post(self, subject: Subject, event: Event) -> None:
        self.done.append(event.reason)

    async def taken(self, manifests: Sequence[Manifest], subject: Subject) -> tuple[Taken, ...]:
        return ()

    async def apply(self, manifest: Manifest) -> None:
        self.done.append(manifest["kind"])


async def test_a_gang_begins_in_the_turn_that_accepts_its_job() -> None:
    """Its start is on record first; behind all other jobs that were made meanwhile it need not wait."""
    cluster = Beginning()
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    await controller.handle(Key("team", "demo"))
    made = ["ConfigMap", "Service", "NetworkPolicy", "Job"]
    done = [done for done in cluster.done if done != "Accepted"]
    assert (done[0], sorted(done[1:3]), done[3:]) == ("read", ["look", "write"], made)
    assert "write" in cluster.done[: cluster.done.index("Accepted")]


@pytest.mark.parametrize("obstacle", [ApiError(503, "overloaded"), TimeoutError()], ids=str)
async def test_what_is_on_record_is_told_although_a_look_ahead_failed(obstacle: Exception) -> None:
    cluster = Beginning(obstacle=obstacle)
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    await controller.handle(KEY)
    assert "Accepted" in cluster.done
    assert cluster.done.count("look") == 2
    assert cluster.done[-1] in ("Job", "Accepted")


def new() -> Manifest:
    """A job that has just been made, as a watch brings it."""
    return stored(FineTuneJobStatus(), dataset=INLINE)


async def test_a_new_job_is_not_read() -> None:
    cluster = Beginning()
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    assert controller.known.matters(KEY, new())
    await controller.handle(KEY)
    assert "read" not in cluster.done
    assert "Job" in cluster.done


async def test_a_new_job_that_is_new_no_more_is_read_after_all() -> None:
    """Nothing is made by what a watch has brought too late."""

    class Ahead(Beginning):
        async def write_status(self, subject: Subject, status: FineTuneJobStatus) -> Manifest:
            if "read" not in self.done:
                raise ApiError(409, "written meanwhile")
            return await super().write_status(subject, status)

    cluster = Ahead()
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    assert controller.known.matters(KEY, new())
    await controller.handle(KEY)
    made = cluster.done.index("ConfigMap")
    assert cluster.done.index("read") < made
    assert cluster.done.index("write") < made


class Deaf(Beginning):
    """A cluster that takes an event only when the gang is there, and no Job, if it is `full`."""

    def __init__(self, *, full: bool) -> None:
        super().__init__()
        self.made = asyncio.Event()
        self.full = full

    async def post(self, subject: Subject, event: Event) -> None:
        await self.made.wait()
        await super().post(subject, event)

    async def apply(self, manifest: Manifest) -> None:
        await super().apply(manifest)
        if manifest["kind"] == "Job":
            self.made.set()
            if self.full:
                raise ApiError(503, "overloaded")


@pytest.mark.parametrize("full", [False, True])
async def test_a_gang_does_not_wait_for_what_is_told_of_it(full: bool) -> None:
    """And that is told, whatever comes of the gang."""
    cluster = Deaf(full=full)
    controller = Controller(cluster, Reports(), lambda: INSTALLATION, Metrics())
    with pytest.raises(TryAgainError) if full else nullcontext():
        await asyncio.wait_for(controller.handle(KEY), timeout=30)
    assert cluster.done[-2:] == ["Job", "Accepted"]


class Living(Cluster):
    """A world as a cluster; every write of the status is a version."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.version = 0

    async def subject(self, key: Key) -> Subject:
        return self.world.subject

    async def belongings(self, subject: Subject) -> Observed:
        return self.world.observed

    async def write_status(self, subject: Subject, status: FineTuneJobStatus) -> Manifest:
        self.world.carry_out(Outcome(status=status))
        self.version += 1
        written = stored(status, **self.world.spec)
        return written | {"metadata": written["metadata"] | {"resourceVersion": str(self.version)}}

    async def delete(self, namespace: str, job: GangJob) -> None:
        self.world.carry_out(Outcome(delete=(job,)))

    async def post(self, subject: Subject, event: Event) -> None:
        pass

    async def missing(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        return []


def running(**spec: object) -> World:
    """A world whose gang runs."""
    world = World(spec=dict(spec))
    world.prepare()
    world.settle()
    world.run_pods()
    return world


def event_of(version: str) -> Manifest:
    """What a watch brings of a job that has begun."""
    wire = stored(running().status)
    return wire | {"metadata": wire["metadata"] | {"resourceVersion": version}}


async def handled(cluster: Living, reports: Reports | None = None) -> Controller:
    """Who has had one turn."""
    reports = reports or Reports()
    world = cluster.world
    if world.posted is not None:
        reports.put(KEY, world.posted)
    controller = Controller(cluster, reports, lambda: INSTALLATION, Metrics(), lambda: world.now)
    await controller.handle(KEY)
    return controller


async def test_the_event_of_its_own_write_has_nothing_to_tell() -> None:
    living = Living(running())
    living.world.post(report(step=3))
    controller = await handled(living)
    assert living.world.status.progress is not None
    decided = living.world.decide()
    assert (decided.status, decided.delete, decided.apply) == (None, (), ())
    assert not controller.known.matters(KEY, event_of(str(living.version)))


async def test_a_version_of_somebody_else_is_no_echo() -> None:
    living = Living(running())
    living.world.post(report(step=3))
    controller = await handled(living)
    assert controller.known.matters(KEY, event_of("another"))


async def test_a_write_after_which_there_is_something_to_do_is_looked_at() -> None:
    living = Living(running(**PUBLISH))
    living.world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    controller = await handled(living)
    assert living.world.status.phase is Phase.SUCCEEDED
    assert living.world.decide().status is not None
    assert controller.known.matters(KEY, event_of(str(living.version)))


async def test_a_turn_that_goes_on_from_its_write_has_looked_at_it() -> None:
    controller = Controller(Beginning(), Reports(), lambda: INSTALLATION, Metrics())
    await controller.handle(KEY)
    assert not controller.known.matters(KEY, event_of(VERSION))


async def test_a_job_that_is_over_rests_until_something_changes() -> None:
    living = Living(running())
    living.world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    controller = await handled(living)
    version = living.world.subject.resource_version
    assert not controller.known.is_at_rest(KEY, version), "it has just come to its end"
    await controller.handle(KEY)
    assert controller.known.is_at_rest(KEY, version)


def over(**spec: Any) -> FineTuneJobStatus:
    """The status of a job that has succeeded."""
    world = running(**spec)
    world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    world.settle()
    return world.status


def test_a_job_that_is_over_need_not_be_read_to_know_that() -> None:
    controller = Controller(Refusing(AssertionError()), Reports(), lambda: INSTALLATION, Metrics())
    wire = stored(over(), dataset=INLINE)
    assert controller.settles(KEY, wire)
    assert controller.known.is_at_rest(KEY, VERSION)
    assert controller.known.is_settled(KEY)
    assert controller._metrics.jobs.knows("team", "demo")
    assert not controller.settles(KEY, wire), "who was looked at is looked at again"


@pytest.mark.parametrize(
    "wire",
    [
        stored(running().status, dataset=INLINE),
        stored(over(), dataset=INLINE, ttlSecondsAfterFinished=60),
        stored(over(**PUBLISH), dataset=INLINE, **PUBLISH),
        stored(over(), dataset=INLINE, generation=2),
        stored(over(), dataset=INLINE) | {"status": {"phase": "Succeeded", "mood": 1}},
    ],
    ids=["running", "its pods are to go", "to be uploaded", "changed", "unreadable"],
)
def test_a_job_that_something_is_left_to_do_about_has_to_be_read(wire: Manifest) -> None:
    controller = Controller(Refusing(AssertionError()), Reports(), lambda: INSTALLATION, Metrics())
    assert not controller.settles(KEY, wire)
    assert not controller.known.is_settled(KEY)
    assert not controller._metrics.jobs.knows("team", "demo")


async def test_who_is_over_for_good_is_not_read_for_what_its_pods_tell() -> None:
    class Counted(Living):
        reads = 0

        async def subject(self, key: Key) -> Subject:
            self.reads += 1
            return await super().subject(key)

    counted, reports = Counted(running()), Reports()
    controller = Controller(counted, reports, lambda: INSTALLATION, Metrics(), lambda: counted.world.now)
    assert controller.settles(KEY, stored(over(), dataset=INLINE))
    counted.world.post(report(step=3))
    assert counted.world.posted is not None
    reports.put(KEY, counted.world.posted)
    assert await controller.handle(KEY) is None
    assert counted.reads == 0
    assert reports.newest(KEY, counted.world.posted.job_uid) is None
    # Another one has its name, say, and nobody has told.
    controller.known.calls(KEY)
    await controller.handle(KEY)
    await controller.handle(KEY)
    assert counted.reads == 2


async def test_a_change_that_comes_while_a_job_is_found_to_be_over_is_looked_at() -> None:
    class Changing(Living):
        reads = 0

        async def subject(self, key: Key) -> Subject:
            self.reads += 1
            found = await super().subject(key)
            if self.reads == 1:
                # Its event comes when this look has read what was before.
                self.world.edit(ttlSecondsAfterFinished=60)
                assert controller.known.matters(KEY, event_of("8"))
            return found

    world = running()
    world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    world.settle()
    changing = Changing(world)
    controller = Controller(changing, Reports(), lambda: INSTALLATION, Metrics(), lambda: world.now)
    assert await controller.handle(KEY) is None
    assert await controller.handle(KEY) == 60
    assert changing.reads == 2


async def test_a_job_whose_pods_are_about_to_go_is_not_at_rest() -> None:
    class Cleaned(Living):
        async def others(self, subject: Subject) -> tuple[()]:
            return ()

    cleaned = Cleaned(running(ttlSecondsAfterFinished=60))
    cleaned.world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    await handled(cleaned)
    cleaned.world.now += timedelta(seconds=60)
    controller = await handled(cleaned)
    assert cleaned.world.jobs["demo-1"].deleting
    assert not controller.known.is_at_rest(KEY, cleaned.world.subject.resource_version)
    # It waits for them, and hears of them by their events alone.
    assert await controller.handle(KEY) is None
    assert not controller.known.is_settled(KEY)


def test_a_job_is_not_at_rest_whose_result_is_to_be_uploaded() -> None:
    world = running(**PUBLISH)
    world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    world.turn()
    assert world.status.phase is Phase.SUCCEEDED
    assert not is_at_rest(world.subject)


async def test_reports_of_a_job_that_failed_are_not_kept() -> None:
    living, reports = Living(running()), Reports()
    living.world.post(report(step=3))
    job = living.world.current
    assert job is not None
    living.world.fail_pod(0, exit_code=int(ExitCode.INVALID_DATA))
    living.world.now += LONG_WAIT
    await handled(living, reports)
    assert living.world.status.phase is Phase.FAILED
    assert living.world.status.progress is not None
    assert reports.newest(KEY, job.uid) is None


@pytest.mark.parametrize(("others", "hung"), [(1, True), (2, False)])
async def test_a_gang_is_not_taken_for_hung_while_none_of_many_is_heard(others: int, hung: bool) -> None:
    living, reports = Living(running()), Reports(START)
    living.world.post(report(step=3))
    controller = await handled(living, reports)
    for number in range(others):
        reports.hearing.runs(Key(KEY.namespace, f"{number}"), living.world.now)
    living.world.now += timedelta(hours=9)
    await controller.handle(KEY)
    [attempt] = living.world.status.attempts
    assert attempt.reason == ("Hung" if hung else None)


async def test_of_a_gang_that_is_over_nothing_need_be_heard() -> None:
    living, reports = Living(running()), Reports(START)
    for number in range(2):
        reports.hearing.runs(Key(KEY.namespace, f"{number}"), living.world.now)
    controller = await handled(living, reports)
    living.world.now += timedelta(minutes=6)
    assert reports.hearing.unheard(living.world.now) == 3
    living.world.succeed(report(sequence=9, step=36, stage=Stage.FINISHED, output=OUTPUT))
    await controller.handle(KEY)
    assert reports.hearing.unheard(living.world.now) == 0


async def test_what_is_to_go_is_asked_to_go_again() -> None:
    class Deaf(Living):
        asked = 0

        async def delete(self, namespace: str, job: GangJob) -> None:
            self.asked += 1

    deaf = Deaf(running())
    deaf.world.fail_pod(0, exit_code=int(ExitCode.ERROR))
    deaf.world.now += LONG_WAIT
    controller = Controller(deaf, Reports(), lambda: INSTALLATION, Metrics(), lambda: deaf.world.now)
    for _ in range(3):
        assert await controller.handle(KEY) == GOING_SECONDS
    assert deaf.asked == 3


@pytest.mark.parametrize(
    "error", [ApiError(403, "no right"), ApiError(500, "etcd is away"), TimeoutError()], ids=str
)
async def test_a_job_goes_on_while_the_events_of_its_pods_cannot_be_read(error: Exception) -> None:
    """Clusters keep events in an etcd of their own, and without them there are but words missing."""

    class Forgetful(Living):
        async def complaint(self, namespace: str, kind: str, name: str) -> None:
            raise error

    world = World(spec={"dataset": INLINE})
    world.settle()
    for pod in world.current_pods:
        waiting = ("ContainerCreating", "")
        world.pods[pod.name] = replace(pod, waiting=waiting, created=world.now)
    world.now += LONG_WAIT
    world.edit(suspend=True)
    await handled(Forgetful(world))
    assert world.jobs["demo-1"].deleting
    assert world.status.attempts[0].reason == "Suspended"


async def test_a_webhook_that_does_not_answer_is_told_after_a_while() -> None:
    """Kueue's is asked about every Job. Until it is back, nothing else tells why there are no pods."""
    words = 'Internal error occurred: failed calling webhook "mjob.kb.io": connection refused'

    class Guarded(Living):
        async def taken(self, manifests: Sequence[Manifest], subject: Subject) -> tuple[Taken, ...]:
            return ()

        async def apply(self, manifest: Manifest) -> None:
            if manifest["kind"] == "Job":
                raise ApiError(500, words)

    guarded = Guarded(World(spec={"dataset": INLINE}))
    world = guarded.world
    with pytest.raises(TryAgainError):
        await handled(guarded)
    world.now += LONG_WAIT
    await handled(guarded)
    stalled = find(world.status.conditions, STALLED)
    assert stalled is not None
    assert (stalled.status, stalled.reason) == ("True", "Refused")
    assert words in stalled.message
    assert world.decide().apply, "it goes on by itself"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, 'admission webhook "guard.example" denied the request: not on this cluster'),
        (413, "ValidatingAdmissionPolicy 'guard' with binding 'guard' denied request: not on this cluster"),
    ],
)
async def test_who_denies_is_told_whatever_the_status_of_the_answer(status: int, words: str) -> None:
    class Guarded(Living):
        async def taken(self, manifests: Sequence[Manifest], subject: Subject) -> tuple[Taken, ...]:
            return ()

        async def apply(self, manifest: Manifest) -> None:
            raise ApiError(status, words)

    guarded = Guarded(World(spec={"dataset": INLINE}))
    await handled(guarded)
    stalled = find(guarded.world.status.conditions, STALLED)
    assert stalled is not None
    assert (stalled.reason, words in stalled.message) == ("Refused", True)


async def test_an_api_server_that_fails_by_itself_refuses_nothing() -> None:
    class Failing(Living):
        async def taken(self, manifests: Sequence[Manifest], subject: Subject) -> tuple[Taken, ...]:
            return ()

        async def apply(self, manifest: Manifest) -> None:
            raise ApiError(500, "etcdserver: leader changed")

    failing = Failing(World(spec={"dataset": INLINE}))
    for _ in range(2):
        with pytest.raises(TryAgainError):
            await handled(failing)
        failing.world.now += LONG_WAIT


@pytest.mark.parametrize("missing", ["demo-1-1", "demo-prepare-a0"])
async def test_what_keeps_the_job_controller_from_making_pods_is_in_the_status(missing: str) -> None:
    """While a quota lets one pod of a gang be and not the other, the one holds its GPUs for nothing."""
    words = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: 8, limited: 8"

    class Limited(Living):
        async def complaint(self, namespace: str, kind: str, name: str) -> tuple[str, str]:
            assert (kind, name) == ("Job", missing.rpartition("-")[0])
            return "FailedCreate", words

    world = World(spec={"dataset": INLINE} if missing == "demo-1-1" else {})
    world.settle()
    world.run_pods()
    del world.pods[missing]
    world.now += LONG_WAIT
    await handled(Limited(world))
    told = find(world.status.conditions, PROGRESSING)
    assert told is not None
    assert told.reason == "FailedCreate"
    assert words in told.message
