"""A small world for the reconciler: what an Outcome does to a cluster, and what the cluster does by itself."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api import names
from finetune_api.failure import PodEnd, Recovery, cause_of
from finetune_api.publication import Published
from finetune_api.report import Metrics, Report, Stage, Transfer
from finetune_api.status import (
    Checkpoint,
    DatasetStatus,
    DecomposedMatrices,
    FineTuneJobStatus,
    Merged,
    Output,
    Phase,
    Plan,
    Subspaces,
)
from finetune_operator.kueue import QUEUE_LABEL
from finetune_operator.lifecycle import cleanup
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.objects.pods import Manifest
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import GangJob, Observed, Owned, Pod, Received, Subject
from finetune_operator.observation.reading import subject
from finetune_operator.status.transitions import Event

# What single pods do.
ALONE = (names.PREPARATION, names.MERGING, names.PUBLISHING)
# Whoever wants to look again no later than this has something to do; later, it is a deadline.
SHORT_WAIT = 10
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
INSTALLATION = Installation(
    trainer_image="registry.example/trainer:1", report_url="https://operator.example:8443", report_ca="CA\n"
)


def manifest(name: str = "demo", **spec: Any) -> dict[str, Any]:
    """A FineTuneJob for two CPU pods, as a user would write it."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "method": "sft",
            "model": {"volume": {"claimName": "models", "path": "tiny"}},
            "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
            "storage": {"claimName": "runs"},
            "resources": {"nodes": 2, "gpusPerNode": 0},
        }
        | spec,
    }


INLINE = manifest()["spec"]["dataset"] | {"prepare": "Inline"}
# What makes it one whose adapter is merged.
MERGES: dict[str, Any] = {"method": "lora", "lora": {"mergeAdapter": True}}


def submitted(status: FineTuneJobStatus | None = None, *, generation: int = 1, **spec: Any) -> Subject:
    """That FineTuneJob as the API server has it, read."""
    return subject(stored(status, generation=generation, **spec))


def stored(status: FineTuneJobStatus | None = None, *, generation: int = 1, **spec: Any) -> dict[str, Any]:
    """The same as it travels."""
    wire = manifest(**spec)
    wire["metadata"] |= {
        "namespace": "team",
        "uid": "uid-1",
        "generation": generation,
        "resourceVersion": "7",
    }
    wire["status"] = (status or FineTuneJobStatus()).to_wire()
    return wire


def checkpoint(step: int, kind: Any = "weights", seconds: int | None = None) -> Checkpoint:
    """A checkpoint of that step."""
    return Checkpoint(
        name=f"step-{step:08}",
        step=step,
        kind=kind,
        path=f"demo/checkpoints/step-{step:08}",
        bytes=100,
        time=START + timedelta(seconds=step if seconds is None else seconds),
    )


PLAN = Plan(
    learning_rate=5e-6,
    effective_batch_size=6,
    num_epochs=2,
    max_seq_len=128,
    max_tokens_per_gpu=128,
    world_size=2,
    steps_per_epoch=18,
    total_steps=36,
    trainable_parameters=1000,
)
DATASET = DatasetStatus(samples=100, dropped=1, tokens=1000, loss_tokens=500, longest=100, digest="d")
SUBSPACES = Subspaces(
    decomposed=14,
    of=14,
    matrices=[DecomposedMatrices(module="self_attn.q_proj", count=14, directions=64, trained=32)],
    trainable_share=0.5,
)
OUTPUT = Output(path="demo/output", format="model", bytes=1000)
ADAPTER = Output(path="demo/output", format="adapter", bytes=10)
# Where results are uploaded to.
TARGET = "s3://models/demo"
PUBLISH: dict[str, Any] = {"publish": {"objectStore": {"uri": TARGET}}}
TRANSFER = Transfer(of="model.safetensors", bytes=3 << 30, total_bytes=12 << 30)
MERGED = ADAPTER.model_copy(update={"merged": Merged(path="demo/merged", bytes=1000)})


def found(sequence: int = 9, **fields: Any) -> Report:
    """The last Report of a preparation that succeeded."""
    told = {"stage": Stage.FINISHED, "dataset": DATASET} | fields
    return report(names.PREPARATION, sequence, None, **told)


def merging(sequence: int = 1, **fields: Any) -> Report:
    """A Report of a merging that is under way."""
    return report(names.MERGING, sequence, None, **{"stage": Stage.MERGING, "plan": None} | fields)


def merged(sequence: int = 9) -> Report:
    """The last Report of one that succeeded."""
    return merging(sequence, stage=Stage.FINISHED, output=MERGED)


def publishing(sequence: int = 1, **fields: Any) -> Report:
    """A Report of an upload that is under way."""
    told = {"stage": Stage.PUBLISHING, "plan": None, "transfer": TRANSFER} | fields
    return report(names.PUBLISHING, sequence, None, **told)


def published(target: str = TARGET, sequence: int = 9, revision: str | None = None) -> Report:
    """The last Report of one that succeeded."""
    there = Published(target=target, revision=revision, bytes=1000, time=START)
    return publishing(sequence, stage=Stage.FINISHED, transfer=None, published=there)


def report(attempt: int = 1, sequence: int = 1, step: int | None = 1, **fields: Any) -> Report:
    """A Report of a training step, or of a trainer that has not made one."""
    metrics = None if step is None else Metrics(step=step, epoch=step / 18, loss=2.0 - step / 100)
    return Report.model_validate(
        {"attempt": attempt, "sequence": sequence, "stage": Stage.TRAINING, "metrics": metrics, "plan": PLAN}
        | fields
    )


def pod_spec(job: Manifest) -> Manifest:
    """What the pods of a Job are made of."""
    found: Manifest = job["spec"]["template"]["spec"]
    return found


@dataclass
class World:
    """One FineTuneJob and everything around it, over time."""

    spec: dict[str, Any] = field(default_factory=dict)
    now: datetime = START
    status: FineTuneJobStatus = field(default_factory=FineTuneJobStatus)
    generation: int = 1
    jobs: dict[str, GangJob] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    posted: Received | None = None
    watching_since: datetime = START - timedelta(days=1)
    """When the operator that is there was started."""
    events: list[Event] = field(default_factory=list)
    others: dict[str, Owned] = field(default_factory=dict)
    """What there is beside Jobs and pods, by name and kind."""
    created: list[str] = field(default_factory=list)
    """Jobs that ever were."""
    writes: int = 0

    @property
    def subject(self) -> Subject:
        """What a reconcile reads of the FineTuneJob: only what is stored, as it comes back from JSON."""
        return submitted(self.status, generation=self.generation, **self.spec)

    @property
    def current(self) -> GangJob | None:
        """The Job that things happen to: the newest."""
        return Observed(jobs=tuple(self.jobs.values())).newest

    @property
    def current_pods(self) -> list[Pod]:
        """Its pods."""
        job = self.current
        return [pod for pod in self.pods.values() if job is not None and pod.job_uid == job.uid]

    @property
    def gangs(self) -> list[str]:
        """Jobs of gangs that ever were."""
        return [name for name in self.created if not name.endswith(("-prepare", "-merge", "-publish"))]

    @property
    def observed(self) -> Observed:
        """What a reconcile reads of the rest."""
        job = self.current
        posted = self.posted if job and self.posted and self.posted.job_uid == job.uid else None
        return Observed(
            jobs=tuple(self.jobs.values()),
            pods=tuple(self.pods.values()),
            report=posted,
            others=tuple(self.others.values()) if cleanup.is_due(self.subject, self.now) else (),
            watching_since=self.watching_since,
        )

    def restart_operator(self, *, away: float = 0) -> None:
        """Another operator comes after so many seconds, and has heard of nothing."""
        self.now += timedelta(seconds=away)
        self.posted, self.watching_since = None, self.now

    def decide(self) -> Outcome:
        """What the reconciler would do now."""
        return reconcile(self.subject, self.observed, self.now, INSTALLATION)

    def turn(self, *, crash_after: int | None = None) -> Outcome:
        """Reconcile once; the operator dies after this many writes, if they are fewer than it wants to make."""
        outcome = self.decide()
        self.carry_out(outcome, crash_after=crash_after)
        return outcome

    def carry_out(self, outcome: Outcome, *, crash_after: int | None = None) -> None:
        """Write what was decided, as far as the operator lives for it."""
        left = [crash_after if crash_after is not None else 1000]

        def write() -> bool:
            left[0] -= 1
            self.writes += left[0] >= 0
            return left[0] >= 0

        for job in outcome.delete:
            if write():
                self.jobs[job.name] = replace(self.jobs[job.name], deleting=True)
        for other in outcome.remove:
            if write():
                self.others.pop(f"{other.name} {other.kind}", None)
        for manifest_ in outcome.apply:
            if write() and manifest_["kind"] == "Job":
                self._create(manifest_)
            elif left[0] >= 0:
                self._make(manifest_)
        if outcome.status is not None and write():
            self.status = outcome.status
            for event in outcome.events:
                if write():
                    self.events.append(event)

    def settle(self, *, turns: int = 12) -> None:
        """Let operator and cluster work until neither has anything to do but wait for what may never come."""
        for _ in range(turns):
            self.collect()
            outcome = self.turn()
            again = outcome.requeue_after or 0
            if 0 < again <= SHORT_WAIT or (again and self.status.phase is Phase.RESTARTING):
                self.now += timedelta(seconds=round(again + 0.5))
            elif not (outcome.delete or outcome.remove or outcome.apply or outcome.status):
                return
        raise AssertionError(f"still busy after {turns} turns: {outcome}")

    def _make(self, other: Manifest) -> None:
        kind, name = other["kind"], other["metadata"]["name"]
        self.others.setdefault(f"{name} {kind}", Owned(kind, name, f"other-{len(self.others)}"))

    def _create(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return
        attempt = names.labelled_attempt(job["metadata"]["labels"]["finetune.dev/attempt"])
        assert attempt is not None
        alive = [
            pod.name
            for pod in self.pods.values()
            if not any(job.over and job.uid == pod.job_uid for job in self.jobs.values())
        ]
        assert not alive, f"{name} starts beside {alive}"
        self.created.append(name)
        [config] = [
            volume["configMap"]["name"] for volume in pod_spec(job)["volumes"] if "configMap" in volume
        ]
        uid = f"job-{len(self.created)}"
        queue = job["metadata"]["labels"].get(QUEUE_LABEL)
        made = GangJob(
            name=name,
            uid=uid,
            attempt=attempt,
            created=self.now,
            config=config,
            queue=queue,
            suspended=job["spec"].get("suspend", False),
        )
        self.jobs[name] = made
        if attempt in ALONE:
            self._start_single_pod(made)
        elif not made.suspended:
            self._start_gang(made)

    def _start_gang(self, job: GangJob) -> None:
        created = self.now if job.queue else None
        for index in range(2):
            pod = f"{job.name}-{index}" + (f"-{self.now:%H%M%S}" if job.queue else "")
            self.pods[pod] = Pod(name=pod, job_uid=job.uid, index=index, running=False, created=created)

    def let_go(self) -> None:
        """The queue lets the gang go; the Job controller has made its pods, and not said yet that it has started."""
        job = self.current
        assert job is not None
        assert job.suspended
        self.jobs[job.name] = replace(job, suspended=False)
        self._start_gang(self.jobs[job.name])

    def admit(self) -> None:
        """The queue lets the gang start."""
        self.let_go()
        self.now += timedelta(seconds=1)
        self.begin()

    def begin(self) -> None:
        """The Job controller says that the gang has started."""
        job = self.current
        assert job is not None
        self.jobs[job.name] = replace(job, started=self.now)

    def preempt(self) -> None:
        """The queue has the gang give back everything; its pods are still there, and save their state."""
        job = self.current
        assert job is not None
        self.jobs[job.name] = replace(job, suspended=True, started=None)
        for pod in self.current_pods:
            self.pods[pod.name] = replace(pod, deleting=True, asked=self.now)

    def _start_single_pod(self, job: GangJob) -> None:
        number = sum(pod.job_uid == job.uid for pod in self.pods.values())
        pod = f"{job.name}-{'abcdefgh'[number % 8]}{number}"
        self.pods[pod] = Pod(name=pod, job_uid=job.uid, index=None, running=False)

    def collect(self) -> None:
        """What controllers do: pods of a deleted Job go, then the Job; pods of a failed Job are ended.

        A single pod's Job that goes on gets another pod.
        """
        for job in self.jobs.values():
            pods = [pod for pod in self.pods.values() if pod.job_uid == job.uid]
            for pod in pods:
                if job.failed and pod.end is None:
                    end = PodEnd(pod=pod.name, exit_code=143)
                    self.pods[pod.name] = replace(pod, running=False, end=end, finished=self.now)
            ended = all(pod.end is not None for pod in pods)
            if job.attempt in ALONE and not job.over and not job.deleting and ended:
                self._start_single_pod(job)
        for job in self.jobs.values():
            if job.waits:
                self.pods = {name: pod for name, pod in self.pods.items() if pod.job_uid != job.uid}
        for job in [job for job in self.jobs.values() if job.deleting]:
            self.pods = {name: pod for name, pod in self.pods.items() if pod.job_uid != job.uid}
            del self.jobs[job.name]

    def edit(self, **spec: Any) -> None:
        """The user changes the spec."""
        self.spec |= spec
        self.generation += 1

    def run_pods(self) -> None:
        """All pods that wait get to run."""
        for pod in self.current_pods:
            if pod.end is None:
                self.pods[pod.name] = replace(pod, running=True, waiting=None)

    def post(self, posted: Report) -> None:
        """A Report arrives from the first pod that runs."""
        job = self.current
        assert job is not None
        sender = next((pod.name for pod in self.current_pods if pod.end is None), "nobody")
        self.posted = Received(posted, job.uid, sender, self.now)

    def fail_pod(
        self, index: int, exit_code: int | None = 1, last_report: Report | None = None, **end: Any
    ) -> None:
        """The pod of this index ends badly."""
        [pod] = [pod for pod in self.current_pods if pod.index == index]
        self._end(pod, exit_code, last_report, **end)

    def _end(self, pod: Pod, exit_code: int | None, last_report: Report | None, **end: Any) -> None:
        self.pods[pod.name] = replace(
            pod,
            running=False,
            end=PodEnd(pod=pod.name, exit_code=exit_code, **end),
            finished=self.now,
            report=last_report,
        )

    def fail_single_pod(
        self,
        exit_code: int = 1,
        last_report: Report | None = None,
        *,
        given_up: bool | None = None,
        **end: Any,
    ) -> None:
        """The pod that prepares or merges ends badly; its Job fails if that cause is not tried again, or `given_up`."""
        job = self.current
        assert job is not None
        [pod] = [pod for pod in self.current_pods if pod.end is None]
        self._end(pod, exit_code, last_report, **end)
        if given_up is None:
            given_up = cause_of(exit_code).recovery is Recovery.FAIL and not end.get("disruption")
        if given_up:
            words = "Job has reached the specified backoff limit"
            self.jobs[job.name] = replace(job, failed=True, words=words)

    def prepare(self, last_report: Report | None = None) -> None:
        """Submitted and left alone, up to the point where the data are prepared."""
        self.settle()
        assert self.created[-1].endswith("-prepare")
        self.run_pods()
        self.succeed(last_report or found())

    def succeed(self, last_report: Report | None = None) -> None:
        """All pods end well, rank 0 with a last Report."""
        job = self.current
        assert job is not None
        for pod in self.current_pods:
            if pod.end is None:
                told = last_report if pod.index in (0, None) else None
                self.pods[pod.name] = replace(pod, running=True, finished=self.now, report=told)
        self.jobs[job.name] = replace(job, complete=True)
