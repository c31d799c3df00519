"""Steps done to the real API server, with the real operator behind a proxy that breaks things, and what comes of it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from chaos import ends, faults, invariants, steps
from chaos.history import KINDS, recorded
from chaos.kubelet import Kubelet
from chaos.operators import ChaosOperator, Tuning
from cluster.gangs import node
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Kube, RefusedError, Wire, eventually
from finetune_api import names
from finetune_api.report import Stage
from world import INLINE, OUTPUT, found, manifest, report

# Nothing may happen for so long; the operator gathers what it hears of for 0.3 s.
QUIET_SECONDS = 0.7
PATIENCE_SECONDS = 45.0
# How long pods live on that are to go.
GRACE_SECONDS = 0.5
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
    from finetune_operator import budget
    from finetune_operator import ends as verdicts

    second = timedelta(seconds=1)
    vars(budget).update(FIRST_PAUSE=second, LAST_PAUSE=second)
    vars(verdicts).update(SETTLING_TIME=second)


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
        self._tuning = Tuning(mutation=mutation)
        self._second: ChaosOperator | None = None
        self._seconds: list[ChaosOperator] = []
        self._secrets = [MARKER]
        self._grace_seconds = grace_seconds

    @contextmanager
    def telling(self) -> Iterator["Story"]:
        """From the beginning to the end."""
        with ExitStack() as ending:
            self.namespace = ending.enter_context(self._kube.namespace())
            secret = {"metadata": {"name": SECRET}, "stringData": {"token": MARKER}}
            self.namespace.create(SECRETS, secret)
            self._kubelet = Kubelet(
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
        self._keep_up()
        # What somebody would do to an object that has just gone is not done.
        with _whatever_is_gone():
            self._perform(step)
        self.check()

    def check(self) -> None:
        """All invariants, over everything until now; raises ViolationError."""
        changes = self.history.changes
        requests = [request for operator in self._operators for request in operator.requests]
        logs = {f"the log of {one.directory.name}": one.log.read_text() for one in self._operators}
        violated = invariants.violations(changes, requests, self.namespace.name)
        violated += invariants.no_secret_is_told(changes, logs, self._secrets)
        if violated:
            raise ViolationError(violated)

    def rest(self) -> None:
        """Let everything heal and come to rest: writes stop, and what stands is current; raises ViolationError."""
        self._operator.proxy.heal()
        self._end_second()
        self.settle()
        if violated := invariants.at_rest(self.history.changes):
            raise ViolationError(violated)
        self.check()

    def finish(self) -> None:
        """Bring every job to its end, and compare it with one that has lived in peace; raises ViolationError."""
        self.rest()
        for wire in self.namespace.all(FINETUNEJOBS):
            name = wire["metadata"]["name"]
            phase = self._bring_to_its_end(name)
            self.settle()
            code = ends.fatal_code(self.namespace.job(name))
            # Whoever has no restart left got there on a way of his own.
            if phase != "Succeeded" and code is None:
                continue
            peaceful = f"peaceful-{name}"
            self._apply(steps.Apply(peaceful, inline=wire["spec"]["dataset"].get("prepare") == "Inline"))
            self._bring_to_its_end(peaceful, code or 0)
            self.settle()
            ended, wanted = (
                ends.masked(self.namespace.job(one), self._children(one)) for one in (name, peaceful)
            )
            if ended != wanted:
                raise ViolationError([f"same end: {name} ended as {ended}, in peace as {wanted}"])
        self.rest()

    def settle(self) -> None:
        """Wait until nothing has happened for a while: no version of anything, and no write of the operator."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            if time.monotonic() > deadline:
                raise ViolationError([f"at rest: still busy after {PATIENCE_SECONDS} s"])
            self._keep_up()
            now = (self.history.length, sum(len(p.writes) for o in self._operators for p in o.proxies))
            if self._kubelet.reap() or now != last or self._waits():
                last, since = now, time.monotonic()
            time.sleep(0.05)

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

    def _keep_up(self) -> None:
        for operator in (self._operator, self._second):
            if operator is not None and not operator.alive:
                operator.start()

    def _waits(self) -> bool:
        """Whether somebody is known to be about to do something."""
        passing = ("Pending", "Restarting", None)
        return any(
            wire["spec"].get("suspend") is not True
            and wire.get("status", {}).get("phase") in passing
            and "True" not in [c["status"] for c in _conditions(wire) if c["type"] == "Stalled"]
            for wire in self.namespace.all(FINETUNEJOBS)
        )

    def _perform(self, step: steps.Step) -> None:
        match step:
            case steps.Apply():
                self._apply(step)
            case steps.Edit(job, field, value):
                self.namespace.patch(FINETUNEJOBS, job, {"spec": {field: value}})
            case steps.Label(job, value):
                self.namespace.patch(FINETUNEJOBS, job, {"metadata": {"labels": {"team": value}}})
            case steps.Remove(job):
                self.namespace.delete(FINETUNEJOBS, job)
            case steps.RemoveChild(job, kind):
                for wire in self._belongings(KINDS[kind], job)[-1:]:
                    self.namespace.delete(
                        KINDS[kind], wire["metadata"]["name"], propagationPolicy="Background"
                    )
            case steps.Run(job):
                self._kubelet.run(self._alive(job))
            case steps.Tell(job, number):
                self._tell(job, number)
            case steps.End(job, code, reason):
                self._end_pods(job, code, reason)
            case steps.Disrupt(job):
                for pod in self._alive(job)[-1:]:
                    condition = {"type": "DisruptionTarget", "status": "True", "message": "a node goes"}
                    state = {"terminated": {"exitCode": 143}}
                    self.namespace.set_pod(pod["metadata"]["name"], "Failed", state, conditions=[condition])
            case steps.Vanish(job):
                for pod in self._alive(job)[:1]:
                    self.namespace.delete(PODS, pod["metadata"]["name"], gracePeriodSeconds=0)
            case steps.Evict(job):
                for pod in self._alive(job)[:1]:
                    path = self.namespace.path(PODS, pod["metadata"]["name"]) + "/eviction"
                    eviction = {"metadata": {"name": pod["metadata"]["name"]}}
                    self._kube.request(
                        "POST", path, {"apiVersion": "policy/v1", "kind": "Eviction"} | eviction
                    )
            case steps.Crash(write, after):
                crash = faults.Crash(after=after)
                self._operator.proxy.add(faults.Rule(faults.writes, crash, skip=write - 1))
            case steps.Refuse(status, times):
                answer = faults.Answer.busy(1) if status == 429 else faults.Answer(status)
                self._operator.proxy.add(faults.Rule(faults.writes, answer, times=times))
            case steps.CutWatches(gone):
                self._operator.proxy.end_watches(last=faults.GONE if gone else None)
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

    def _apply(self, step: steps.Apply) -> None:
        spec: dict[str, Any] = {"dataset": INLINE} if step.inline else {"model": FROM_HUB}
        body = manifest(step.job, suspend=step.suspend, **spec)
        try:
            self.namespace.create(FINETUNEJOBS, body)
        except RefusedError as error:
            if error.status != 409:
                raise

    def _belongings(self, template: str, job: str) -> list[Wire]:
        return self.namespace.all(template, labelSelector=f"{names.LABEL_JOB}={job}")

    def _alive(self, job: str) -> list[Wire]:
        """Pods that can run, by name; those of a gang by rank."""
        pods = [pod for pod in self._belongings(PODS, job) if pod["status"]["phase"] not in invariants.OVER]
        return sorted(
            (pod for pod in pods if "deletionTimestamp" not in pod["metadata"]),
            key=lambda pod: str(pod["metadata"]["name"]),
        )

    def _attempt(self, pod: Wire) -> int:
        attempt = names.labelled_attempt(pod["metadata"]["labels"][names.LABEL_ATTEMPT])
        assert attempt is not None
        return attempt

    def _tell(self, job: str, number: int) -> None:
        for pod in self._alive(job)[:1]:
            attempt = self._attempt(pod)
            if attempt < 1 or pod["status"]["phase"] != "Running":
                continue
            token = self.namespace.token(pod["metadata"]["name"])
            self._secrets.append(token)
            # The operator may be away: the trainer would try again, and tell more then.
            with contextlib.suppress(OSError):
                told = report(attempt, number, number)
                self._operator.post(self.namespace.name, job, told, token=token)

    def _end_pods(self, job: str, code: int, reason: str = "") -> None:
        alive = self._alive(job)
        for rank, pod in enumerate(alive if code == 0 else alive[-1:]):
            attempt, message = self._attempt(pod), ""
            if code == 0 and rank == 0:
                last = report(attempt, 99, step=36, stage=Stage.FINISHED, output=OUTPUT)
                message = (found() if attempt == names.PREPARATION else last).to_termination_message()
            self.namespace.end_pod(pod["metadata"]["name"], code, message, reason)

    def _children(self, job: str) -> list[Wire]:
        """What is there of it, besides pods; lists do not say of what kind their items are."""
        return [
            {"kind": kind, **wire}
            for kind in invariants.OWNED
            for wire in self._belongings(KINDS[kind], job)
            if "deletionTimestamp" not in wire["metadata"]
        ]

    def _bring_to_its_end(self, name: str, code: int = 0) -> str:
        """Have its preparation succeed, and its gang end with this code."""
        self.namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": False}})

        def over() -> str | None:
            self._keep_up()
            self._kubelet.reap()
            phase: str | None = self.namespace.job(name).get("status", {}).get("phase")
            if phase in invariants.OVER:
                return phase
            newest = [j for j in self._belongings(JOBS, name) if "deletionTimestamp" not in j["metadata"]]
            wanted = sum(j["spec"].get("parallelism", 1) for j in newest if not _is_over(j))
            if wanted and len(self._alive(name)) == wanted:
                prepares = self._attempt(self._alive(name)[0]) == names.PREPARATION
                with _whatever_is_gone():
                    self._end_pods(name, 0 if prepares else code)
            return None

        phase = eventually(over, seconds=PATIENCE_SECONDS)
        assert phase is not None
        return phase


def _conditions(wire: Wire) -> list[Wire]:
    found: list[Wire] = wire.get("status", {}).get("conditions", [])
    return found


def _is_over(job: Wire) -> bool:
    told = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in told)


@contextmanager
def _whatever_is_gone() -> Iterator[None]:
    """An object may go between being seen and being touched."""
    try:
        yield
    except RefusedError as error:
        if error.status not in (404, 409):
            raise
