"""The operator dies before every single write of a job's life, and nothing is lost or done twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.kube import BARE_JOB, FINETUNEJOBS, JOBS, PODS, Kube, Namespace, eventually
from cluster.operators import Operator
from finetune_api import names
from finetune_api.report import Stage
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.api import Api, ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.conditions import PUBLISHED
from finetune_operator.controller import Controller
from finetune_operator.kinds import Key
from finetune_operator.metrics import Metrics
from finetune_operator.observed import GangJob, Owned, Received, Subject
from finetune_operator.pods import Manifest
from finetune_operator.queue import TryAgainError
from finetune_operator.reports import Reports
from finetune_operator.transitions import Event
from world import (
    ADAPTER,
    INLINE,
    INSTALLATION,
    MERGED,
    MERGES,
    OUTPUT,
    PUBLISH,
    START,
    TARGET,
    checkpoint,
    found,
    merged,
    published,
    report,
)


class DiedError(Exception):
    """The operator is no more."""


class MortalCluster(Cluster):
    """The real thing, until its operator dies: just before one of its writes."""

    def __init__(self, api: Api, writes_to_live: int, *, spare_events: bool = False) -> None:
        super().__init__(api, instance="mortal")
        self.left = writes_to_live
        self.spare_events = spare_events
        self.writes: list[str] = []

    def _write(self, what: str) -> None:
        if self.left == 0:
            raise DiedError(what)
        self.left -= 1
        self.writes.append(what)

    async def apply(self, manifest: Manifest) -> None:
        self._write(f"apply {manifest['kind']}")
        await super().apply(manifest)

    async def delete(self, namespace: str, job: GangJob) -> None:
        self._write(f"delete {job.name}")
        await super().delete(namespace, job)

    async def remove(self, namespace: str, owned: Owned) -> None:
        self._write(f"remove {owned.kind}")
        await super().remove(namespace, owned)

    async def write_status(self, subject: Subject, status: FineTuneJobStatus) -> None:
        self._write(f"status {status.phase}")
        await super().write_status(subject, status)

    async def post(self, subject: Subject, event: Event) -> None:
        if not self.spare_events:
            self._write(f"event {event.reason}")
        await super().post(subject, event)


class Life:
    """One FineTuneJob's life: its data are prepared, and of two attempts the first fails.

    Its operator is replaced when it dies.
    """

    spare_events = False

    def __init__(self, api: Api, namespace: Namespace, writes_to_live: int) -> None:
        self.api = api
        self.namespace = namespace
        self.key = Key(namespace.name, "demo")
        self.cluster = MortalCluster(api, writes_to_live, spare_events=self.spare_events)
        self.deaths = 0
        self.gangs: dict[str, set[str]] = {}
        self.began = time.monotonic()
        self._be_born()

    def _be_born(self) -> None:
        self.reports = Reports()
        self.controller = Controller(
            self.cluster, self.reports, lambda: INSTALLATION, Metrics(), clock=self.clock
        )

    def clock(self) -> datetime:
        """A quick one: what is to wait for seconds need not keep this test waiting."""
        return START + timedelta(seconds=int(20 * (time.monotonic() - self.began)))

    async def until(
        self, phase: str, attempt: int, *, also: Callable[[dict[str, Any]], bool] = lambda status: True
    ) -> None:
        """Reconcile until the job is in this phase of this attempt, and this is true of its status, too."""
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline, (self.cluster.writes, self.namespace.status())
            try:
                await self.controller.handle(self.key)
            except DiedError:
                self.deaths += 1
                self.cluster = MortalCluster(self.api, -1)
                self._be_born()
                self._report(attempt)
            except TryAgainError:
                pass
            for job in self.namespace.all(JOBS):
                self.gangs.setdefault(job["metadata"]["name"], set()).add(job["metadata"]["uid"])
            status = self.namespace.status()
            attempts = status.get("attempts", [])
            if status.get("phase") == phase and len(attempts) == attempt and also(status):
                return
            await asyncio.sleep(0.02)

    def _report(self, attempt: int) -> None:
        # The trainer reports on, whoever listens.
        for job in self.namespace.all(JOBS):
            if job["metadata"]["name"] == f"demo-{attempt}" and self.training == attempt:
                uid = job["metadata"]["uid"]
                self.reports.put(self.key, Received(report(attempt), uid, "rank-0", self.clock()))

    training = 0

    async def live(self) -> None:
        self.namespace.submit()
        await self.until("Preparing", 0)
        [pod] = self.namespace.pods(count=1, attempt=0)
        self.namespace.end_pod(pod, 0, found().to_termination_message())
        await self.until("Starting", 1)
        await self.train(1)
        for pod in self.namespace.pods(attempt=1):
            self.namespace.end_pod(pod, 1)
        await self.until("Starting", 2)
        await self.train(2)
        await self.succeed()

    async def succeed(self) -> None:
        """The second attempt comes to a good end."""
        last = report(2, 99, step=36, stage=Stage.FINISHED, output=OUTPUT, checkpoints=[checkpoint(36)])
        pods = self.namespace.pods(attempt=2)
        self.namespace.end_pod(pods[1], 0)
        self.namespace.end_pod(pods[0], 0, last.to_termination_message())
        await self.until("Succeeded", 2)
        await self.be_idle()

    async def be_idle(self) -> None:
        # Whatever was begun is finished, and then there is nothing more to do.
        written = len(self.cluster.writes)
        await self.controller.handle(self.key)
        assert len(self.cluster.writes) == written

    async def train(self, attempt: int) -> None:
        self.namespace.run_pods(self.namespace.pods(attempt=attempt))
        self.training = attempt
        self._report(attempt)
        await self.until("Running", attempt)


class SuspendedLife(Life):
    """One that is suspended in its middle, and cleaned up in the end."""

    # What the death before one costs is known.
    spare_events = True

    async def live(self) -> None:
        self.namespace.submit(dataset=INLINE)
        await self.until("Starting", 1)
        await self.train(1)
        self._edit(suspend=True)
        await self.until("Suspended", 1)
        assert (self.namespace.all(PODS), self.namespace.all(JOBS)) == ([], [])
        self._edit(suspend=False)
        await self.until("Starting", 2)
        await self.train(2)
        await self.succeed()
        self._edit(ttlSecondsAfterFinished=0)
        await self.until("Succeeded", 2, also=lambda status: "cleanupTime" in status)
        await self.be_idle()

    def _edit(self, **spec: object) -> None:
        self.namespace.patch(FINETUNEJOBS, "demo", {"spec": spec})


class MergingLife(SuspendedLife):
    """One whose adapter is merged, which is suspended in its middle. Its operator is mortal from the gang's end on."""

    async def live(self) -> None:
        mortal_for, self.cluster.left = self.cluster.left, -1
        self.namespace.submit(dataset=INLINE, **MERGES)
        await self.until("Starting", 1)
        await self.train(1)
        self.cluster.left = mortal_for
        last = report(1, 99, step=36, stage=Stage.FINISHED, output=ADAPTER)
        pods = self.namespace.pods(attempt=1)
        self.namespace.end_pod(pods[1], 0)
        self.namespace.end_pod(pods[0], 0, last.to_termination_message())
        await self.merging()
        self._edit(suspend=True)
        await self.until("Suspended", 1)
        self._edit(suspend=False)
        pod = await self.merging()
        self.namespace.end_pod(pod, 0, merged().to_termination_message())
        await self.until("Succeeded", 1)
        await self.be_idle()

    async def merging(self) -> str:
        """The adapter is merged; returns by which pod."""
        await self.until("Merging", 1)
        while not any(job["metadata"]["name"] == "demo-merge" for job in self.namespace.all(JOBS)):
            await self.until("Merging", 1)
        [pod] = self.namespace.pods(count=1, attempt=names.MERGING)
        self.namespace.run_pods([pod])
        await self.until("Merging", 1)
        return pod


class PublishingLife(SuspendedLife):
    """One whose result is uploaded at the second try. Its operator is mortal from the job's end on."""

    async def live(self) -> None:
        mortal_for, self.cluster.left = self.cluster.left, -1
        self.namespace.submit(dataset=INLINE, **PUBLISH)
        await self.until("Starting", 1)
        await self.train(1)
        last = report(1, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
        pods = self.namespace.pods(attempt=1)
        self.namespace.end_pod(pods[1], 0)
        self.namespace.end_pod(pods[0], 0, last.to_termination_message())
        await self.until("Succeeded", 1)
        self.cluster.left = mortal_for
        self.namespace.end_pod(await self.uploading(tries=0), 77, "no access")
        await self.told("False")
        self.namespace.end_pod(await self.uploading(tries=1), 0, published().to_termination_message())
        await self.told("True")
        await self.be_idle()

    async def uploading(self, *, tries: int) -> str:
        """A pod uploads the result; returns which."""
        name = "demo-publish"

        def is_there(status: dict[str, Any]) -> bool:
            known = status.get("publication", {})
            jobs = [job["metadata"] for job in self.namespace.all(JOBS)]
            made = any(job["name"] == name and "deletionTimestamp" not in job for job in jobs)
            return made and known.get("tries") == tries and "nextTry" not in known

        await self.until("Succeeded", 1, also=is_there)
        [pod] = self.namespace.pods(count=1, attempt=names.PUBLISHING)
        self.namespace.run_pods([pod])
        return pod

    async def told(self, truth: str) -> None:
        """The condition says so."""
        await self.until(
            "Succeeded",
            1,
            also=lambda status: any(
                (one["type"], one["status"]) == (PUBLISHED, truth) for one in status["conditions"]
            ),
        )


@pytest.fixture
async def api(lonely: Kube, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setenv("KUBECONFIG", str(lonely.kubeconfig))
    api = await Api.connect(Metrics())
    yield api
    await api.close()


async def deaths(api: Api, lonely: Kube, writes_to_live: int) -> int:
    """How often the operator died in a whole life, which is in a namespace of its own and checked."""
    with lonely.namespace() as namespace:
        life = Life(api, namespace, writes_to_live)
        await life.live()
        check(life)
    return life.deaths


def check(life: Life) -> None:
    status = life.namespace.status()
    assert [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]] == [
        (1, "Error", True),
        (2, "Completed", False),
    ]
    assert (status["restarts"], status["output"]["path"]) == (1, "demo/output")
    assert status["dataset"]["samples"] == 100
    assert {name: len(uids) for name, uids in life.gangs.items()} == {
        "demo-prepare": 1,
        "demo-1": 1,
        "demo-2": 1,
    }
    assert {job["metadata"]["name"] for job in life.namespace.all(JOBS)} == {"demo-prepare", "demo-2"}
    assert len(life.namespace.all(PODS)) == 3
    told = life.namespace.told()
    events = [reason for reason, _ in told]
    assert len(events) == len(set(events)) + (events.count("Started") == 2), told


async def test_death_before_any_write_loses_nothing_and_doubles_nothing(api: Api, lonely: Kube) -> None:
    # How often the progress is written depends on the clock: no life tells how many writes another one has.
    writes_to_live = 0
    while await deaths(api, lonely, writes_to_live):
        writes_to_live += 1
    assert writes_to_live > 20


async def test_neither_does_death_while_it_is_suspended_or_cleaned_up(api: Api, lonely: Kube) -> None:
    async def suspended_deaths(writes_to_live: int) -> int:
        with lonely.namespace() as namespace:
            life = SuspendedLife(api, namespace, writes_to_live)
            await life.live()
            status = namespace.status()
            assert [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]] == [
                (1, "Suspended", False),
                (2, "Completed", False),
            ]
            assert status["restarts"] == 0
            assert {name: len(uids) for name, uids in life.gangs.items()} == {"demo-1": 1, "demo-2": 1}
            assert namespace.belongings() == []
        return life.deaths

    writes_to_live = 0
    while await suspended_deaths(writes_to_live):
        writes_to_live += 1
    assert writes_to_live > 20


async def test_nor_does_death_while_the_adapter_is_merged(api: Api, lonely: Kube) -> None:
    async def merging_deaths(writes_to_live: int) -> int:
        with lonely.namespace() as namespace:
            life = MergingLife(api, namespace, writes_to_live)
            await life.live()
            status = namespace.status()
            assert [(a["number"], a["reason"]) for a in status["attempts"]] == [(1, "Completed")]
            assert status["output"] == MERGED.to_wire()
            # One that was given back, and one after that.
            assert {name: len(uids) for name, uids in life.gangs.items()} == {"demo-1": 1, "demo-merge": 2}
            assert {job["metadata"]["name"] for job in namespace.all(JOBS)} == {"demo-1", "demo-merge"}
            assert len(namespace.all(PODS)) == 3
        return life.deaths

    writes_to_live = 0
    while await merging_deaths(writes_to_live):
        writes_to_live += 1
    assert writes_to_live > 8


async def test_nor_does_death_while_the_result_is_uploaded(api: Api, lonely: Kube) -> None:
    async def publishing_deaths(writes_to_live: int) -> int:
        with lonely.namespace() as namespace:
            life = PublishingLife(api, namespace, writes_to_live)
            await life.live()
            status = namespace.status()
            assert status["publication"]["tries"] == 1
            assert status["publication"]["published"]["target"] == TARGET
            # One that failed, and one after that.
            assert {name: len(uids) for name, uids in life.gangs.items()} == {"demo-1": 1, "demo-publish": 2}
            assert len(namespace.all(PODS)) == 3
            told = [event for event in namespace.told() if event[0].startswith("Publish")]
            assert len(told) == len({reason for reason, _ in told}), told
        return life.deaths

    writes_to_live = 0
    while await publishing_deaths(writes_to_live):
        writes_to_live += 1
    assert writes_to_live > 8


async def test_who_decided_on_an_old_status_cannot_write(api: Api, lonely: Kube) -> None:
    with lonely.namespace() as namespace:
        cluster, key = Cluster(api, instance="slow"), Key(namespace.name, "demo")
        namespace.submit()
        old = await cluster.subject(key)
        assert old is not None
        namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"labels": {"touched": "yes"}}})
        with pytest.raises(ApiError) as refused:
            await cluster.write_status(old, FineTuneJobStatus(phase=Phase.FAILED))
        assert refused.value.status == 409
        assert "phase" not in namespace.status()


async def test_a_job_that_only_has_the_name_is_not_deleted(api: Api, lonely: Kube) -> None:
    with lonely.namespace() as namespace:
        namespace.create(JOBS, BARE_JOB)
        impostor = GangJob(name="demo-1", uid="00000000-0000-0000-0000-000000000000", attempt=1)
        await Cluster(api, instance="slow").delete(namespace.name, impostor)
        assert "deletionTimestamp" not in namespace.get(JOBS, "demo-1")["metadata"]


def test_the_process_is_killed_again_and_again(namespace: Namespace, operator: Operator) -> None:
    """The same with the real process, at less exact moments."""
    namespace.submit()
    [preparing] = namespace.pods(count=1, attempt=0)
    operator.kill()
    namespace.end_pod(preparing, 0, found().to_termination_message())
    operator.start()
    pods = namespace.pods()
    operator.kill()
    namespace.run_pods(pods)
    operator.start()
    assert operator.post(namespace.name, "demo", report(), token=namespace.token(pods[0]))[0] == 200
    namespace.in_phase("Running")
    operator.kill()
    operator.start()
    time.sleep(1)
    status = namespace.status()
    assert (status["phase"], status["progress"]["step"]) == ("Running", 1)
    for pod in pods:
        namespace.end_pod(pod, 200)
    operator.kill()
    operator.start()
    second = namespace.pods(attempt=2)
    operator.kill()
    operator.start()
    for pod in second:
        namespace.end_pod(pod, 0)
    status = namespace.in_phase("Succeeded")
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 2]
    assert status["restarts"] == 1
    assert eventually(lambda: "Succeeded" in namespace.events())
    assert operator.stop() == 0
    operator.start()


def test_two_operators_at_once_do_no_harm(namespace: Namespace, operator: Operator, tmp_path: Path) -> None:
    second = Operator(namespace.kube.kubeconfig, tmp_path)
    second.start()
    try:
        for name in ("a", "b", "c"):
            namespace.begin(name)
        for name in ("a", "b", "c"):
            for pod in namespace.pods(name):
                namespace.end_pod(pod, 1)
        for name in ("a", "b", "c"):
            for pod in namespace.pods(name, attempt=2):
                namespace.end_pod(pod, 0)
            status = namespace.in_phase("Succeeded", name)
            assert [(a["number"], a["reason"]) for a in status["attempts"]] == [
                (1, "Error"),
                (2, "Completed"),
            ]
            assert status["restarts"] == 1
        assert len(namespace.all(PODS)) == 9
    finally:
        assert second.stop() == 0
    for log in (operator.log, second.log):
        assert '"level": "error"' not in log.read_text()
