"""Steps done to the real API server, with the real operator behind a proxy that breaks things, and what comes of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from chaos import faults, invariants, steps
from chaos.history import KINDS, recorded
from chaos.kubelet import Kubelet
from chaos.operators import ChaosOperator, Tuning
from chaos.proxy import FaultProxy
from cluster.gangs import node
from cluster.kube import FINETUNEJOBS, JOBS, MERGE, Kube, RefusedError, Wire
from finetune_api import names
from world import INLINE, manifest

# Nothing may happen for so long; the operator gathers what it hears of for 0.3 s.
QUIET_SECONDS = 0.7
# How long everything may take that has to come: long, for the machine may be busy.
PATIENCE_SECONDS = 180.0
# Seldom enough to cost nothing, and often enough that two of them pass before a story is over.
PATROL_SECONDS = 1.0
# How long pods live on that are to go.
GRACE_SECONDS = 0.5
# The API server warns of pods that do not keep to the standard.
JUDGED = {"metadata": {"labels": {"pod-security.kubernetes.io/warn": "restricted"}}}
# A Secret that jobs refer to, and what nobody but the kubelet may know.
SECRETS = "/api/v1/namespaces/{namespace}/secrets"
SECRET, MARKER = "hub", "hf_marker-of-a-secret"
FROM_HUB = {"huggingFace": {"repo": "team/model", "tokenSecretRef": {"name": SECRET, "key": "token"}}}


class ViolationError(AssertionError):
    """What a story has violated, one a line."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("\n".join(found))
        self.found = list(found)


def hurried() -> None:
    """Have the operator wait for seconds where it would wait for minutes; no rule is changed."""
    from finetune_operator.lifecycle import budget
    from finetune_operator.lifecycle import ends as verdicts

    second = timedelta(seconds=1)
    vars(budget).update(FIRST_PAUSE=second, LAST_PAUSE=second)
    vars(verdicts).update(SETTLING_TIME=second, ENDING_TIME=second)


class Story:
    """A namespace, an operator, and all that happens."""

    def __init__(
        self,
        kube: Kube,
        directory: Path,
        mutation: Callable[[], None] = hurried,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.told: list[steps.Step] = []
        self._kube = kube
        self._directory = directory
        self._tuning = Tuning(mutation=mutation, patrol_seconds=PATROL_SECONDS)
        self._second: ChaosOperator | None = None
        self._seconds: list[ChaosOperator] = []
        self._secrets = [MARKER]
        self._grace_seconds = grace_seconds
        self.taken: dict[str, set[str]] = {}
        """Of which kinds the story has deleted objects, by FineTuneJob."""

    @contextmanager
    def telling(self) -> Iterator["Story"]:
        """From the beginning to the end."""
        with ExitStack() as ending:
            self.namespace = ending.enter_context(self._kube.namespace())
            self._kube.request("PATCH", f"/api/v1/namespaces/{self.namespace.name}", JUDGED, MERGE)
            secret = {"metadata": {"name": SECRET}, "stringData": {"token": MARKER}}
            self.namespace.create(SECRETS, secret)
            self.kubelet = Kubelet(
                self.namespace, ending.enter_context(node(self.namespace)), self._grace_seconds
            )
            self.history = ending.enter_context(recorded(self.namespace))
            self._operator = self._make("first")
            ending.callback(self._stop_all)
            self._operator.start()
            yield self

    def do(self, step: steps.Step) -> None:
        """Do a step, and look at all that has happened so far; raises ViolationError."""
        self.told.append(step)
        self._start_again()
        # What somebody would do to an object that has just gone is not done.
        with whatever_is_gone():
            self._perform(step)
        self.check()

    def check(self) -> None:
        """All invariants, over everything until now; raises ViolationError."""
        changes = self.history.changes
        requests = [request for operator in self._operators for request in operator.requests]
        begun = [operator for operator in self._operators if operator.log.exists()]
        logs = {f"the log of {one.directory.name}": one.log.read_text() for one in begun}
        violated = invariants.violations(changes, requests, self.namespace.name)
        violated += invariants.no_secret_is_told(changes, logs, self._secrets)
        if violated:
            raise ViolationError(violated)

    def rest(self) -> None:
        """Let everything heal and come to rest: what stands is current; raises ViolationError."""
        self.proxy.heal()
        self._end_second()
        self.settle()
        self.come_to(lambda: invariants.at_rest(self.history.changes))
        self.check()
        metrics = {"the metrics": self._operator.get("/metrics")[1]}
        if violated := list(invariants.no_secret_is_told((), metrics, self._secrets)):
            raise ViolationError(violated)

    def settle(self) -> None:
        """Wait until nothing has happened for a while: no version of anything, and no write of the operator."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            if time.monotonic() > deadline:
                jobs = self.namespace.all(FINETUNEJOBS)
                phases = {job["metadata"]["name"]: job.get("status", {}).get("phase") for job in jobs}
                raise ViolationError([f"at rest: still busy after {PATIENCE_SECONDS} s: {phases}"])
            self._start_again()
            now = (self.history.length, sum(len(p.writes) for o in self._operators for p in o.proxies))
            if self.kubelet.reap() or now != last or self._waits():
                last, since = now, time.monotonic()
            time.sleep(0.05)

    def come_to(self, violated: Callable[[], list[str]]) -> None:
        """Wait until this finds nothing; raises ViolationError with what it found last."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while found := violated():
            if time.monotonic() > deadline:
                raise ViolationError(found)
            self.keep_up()
            time.sleep(0.05)

    # What whoever brings it to its end needs, too

    @property
    def proxy(self) -> FaultProxy:
        """Between the API server and the operator that runs."""
        return self._operator.proxy

    def keep_up(self) -> None:
        """Start operators again that were killed, and remove pods that have had their time."""
        self._start_again()
        self.kubelet.reap()

    def apply(self, step: steps.Apply) -> None:
        """Make a FineTuneJob, unless it is there."""
        spec: dict[str, Any] = {"dataset": INLINE} if step.inline else {"model": FROM_HUB}
        body = manifest(step.job, suspend=step.suspend, **spec)
        try:
            self.namespace.create(FINETUNEJOBS, body)
        except RefusedError as error:
            if error.status != 409:
                raise

    def belongings(self, template: str, job: str) -> list[Wire]:
        """The objects of a kind that are labelled with a FineTuneJob."""
        return self.namespace.all(template, labelSelector=f"{names.LABEL_JOB}={job}")

    # How it is done

    @property
    def _operators(self) -> list[ChaosOperator]:
        return [self._operator, *self._seconds]

    def _make(self, name: str) -> ChaosOperator:
        return ChaosOperator(self._kube, self._directory / name, self.namespace.name, tuning=self._tuning)

    def _stop_all(self) -> None:
        for operator in self._operators:
            operator.kill()
            operator.stop()
            for proxy in operator.proxies:
                proxy.close()

    def _start_again(self) -> None:
        for operator in (self._operator, self._second):
            if operator is not None and not operator.alive:
                operator.start()

    def _waits(self) -> bool:
        """Whether somebody is known to be about to do something."""
        works = {
            wire["metadata"]["labels"][names.LABEL_JOB]
            for wire in self.namespace.all(JOBS, labelSelector=names.LABEL_JOB)
            if not is_over(wire) and "deletionTimestamp" not in wire["metadata"]
        }
        return any(
            _is_underway(wire, works=wire["metadata"]["name"] in works)
            for wire in self.namespace.all(FINETUNEJOBS)
        )

    def _perform(self, step: steps.Step) -> None:
        match step:
            case steps.Apply():
                self.apply(step)
            case steps.Edit(job, field, value):
                self.namespace.patch(FINETUNEJOBS, job, {"spec": {field: value}})
            case steps.Label(job, value):
                self.namespace.patch(FINETUNEJOBS, job, {"metadata": {"labels": {"team": value}}})
            case steps.Remove(job):
                self.namespace.delete(FINETUNEJOBS, job)
                self.taken.pop(job, None)
            case steps.RemoveChild(job, kind):
                for wire in self.belongings(KINDS[kind], job)[-1:]:
                    self.taken.setdefault(job, set()).add(kind)
                    self.namespace.delete(
                        KINDS[kind], wire["metadata"]["name"], propagationPolicy="Background"
                    )
            case steps.Run(job):
                self.kubelet.run(job)
            case steps.Tell(job, number):
                if token := self.kubelet.tell(job, number, self._operator):
                    self._secrets.append(token)
            case steps.End(job, code, reason):
                self.kubelet.end(job, code, reason)
            case steps.Disrupt(job):
                self.kubelet.disrupt(job)
            case steps.Vanish(job):
                self.kubelet.vanish(job)
            case steps.Evict(job):
                self.kubelet.evict(job)
            case steps.Crash(write, after):
                crash = faults.Crash(after=after)
                self.proxy.add(faults.Rule(faults.writes, crash, skip=write - 1))
            case steps.Refuse(status, times):
                answer = faults.Answer.busy(1) if status == 429 else faults.Answer(status)
                self.proxy.add(faults.Rule(faults.writes, answer, times=times))
            case steps.CutWatches(gone):
                self.proxy.end_watches(last=faults.GONE if gone else None)
            case steps.Second():
                if not self._end_second():
                    self._second = self._make(f"second-{len(self._seconds)}")
                    self._seconds.append(self._second)
                    self._second.start()
            case steps.Settle():
                self.settle()

    def _end_second(self) -> bool:
        second, self._second = self._second, None
        if second is not None:
            second.stop()
        return second is not None


def _is_underway(job: Wire, *, works: bool) -> bool:
    """Whether the next thing that happens to a job is the operator's to do; `works` says that it has a Job."""
    status, suspend = job.get("status", {}), job["spec"].get("suspend") is True
    stalled = ("Stalled", "True") in {(c["type"], c["status"]) for c in status.get("conditions", [])}
    if stalled or status.get("phase") in invariants.OVER:
        return False
    if status.get("phase") == "Suspended":
        return not suspend
    return suspend or not works


def is_over(job: Wire) -> bool:
    """Whether a batch/v1 Job has come to its end."""
    told = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in told)


@contextmanager
def whatever_is_gone() -> Iterator[None]:
    """An object may go between being seen and being touched."""
    try:
        yield
    except RefusedError as error:
        if error.status not in (404, 409):
            raise
