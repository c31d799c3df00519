"""The operator is killed at every single write of a job's life, before and after it took effect."""

import re
import time
from collections import Counter
from itertools import repeat
from typing import Any

import pytest

from chaos.conftest import MakeOperator
from chaos.faults import Asked, Crash, Rule
from chaos.operators import PATIENCE, ChaosOperator
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Namespace, eventually
from finetune_api import names
from finetune_api.report import Stage
from world import ADAPTER, INLINE, MERGES, OUTPUT, PUBLISH, checkpoint, found, merged, published, report

# No life has fewer.
LEAST_WRITES = 10
MASKED = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)|\d\d:\d\d:\d\d UTC|demo\.[0-9a-f]{16}"
    r'|"(resourceVersion|uid)": ?"[^"]*"|"\w+Seconds": ?[\d.]+'
)


class Life:
    """The life of the job `demo`; its trainer is heard by nobody, and says in the end what it did."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def live(self) -> None:
        """From the first day to the last."""
        raise NotImplementedError

    def in_phase(self, phase: str, attempts: int) -> None:
        """Wait until it is in this phase of its so manieth attempt."""

        def reached() -> bool:
            status = self.namespace.status()
            return (status.get("phase"), len(status.get("attempts", []))) == (phase, attempts)

        eventually(reached, seconds=PATIENCE)

    def pods(self, attempt: int, count: int = 2) -> list[str]:
        """The pods of an attempt, once the job is known to wait for them."""
        selector = f"finetune.dev/job=demo,finetune.dev/attempt={names.attempt_label(attempt)}"

        def all_there() -> list[str]:
            there = [pod["metadata"] for pod in self.namespace.all(PODS, labelSelector=selector)]
            return sorted(pod["name"] for pod in there if "deletionTimestamp" not in pod)

        return eventually(lambda: pods if len(pods := all_there()) == count else None, seconds=PATIENCE) or []

    def edit(self, **spec: object) -> None:
        """Change the spec."""
        self.namespace.patch(FINETUNEJOBS, "demo", {"spec": spec})

    def prepare(self) -> None:
        """The data are prepared."""
        [pod] = self.pods(names.PREPARATION, count=1)
        self.namespace.end_pod(pod, 0, found().to_termination_message())

    def train(self, attempt: int) -> list[str]:
        """A gang trains."""
        pods = self.pods(attempt)
        self.in_phase("Starting", attempt)
        self.namespace.run_pods(pods)
        return pods

    def deliver(self, pods: list[str], attempt: int, output: Any = OUTPUT) -> None:
        """The gang comes to a good end."""
        done = {"stage": Stage.FINISHED, "output": output, "checkpoints": [checkpoint(36)]}
        self.namespace.end_pod(pods[1], 0)
        self.namespace.end_pod(pods[0], 0, report(attempt, 99, step=36, **done).to_termination_message())

    def clean_up(self) -> None:
        """What is left of it is removed."""
        self.edit(ttlSecondsAfterFinished=0)
        eventually(lambda: "cleanupTime" in self.namespace.status(), seconds=PATIENCE)


class Restarted(Life):
    """Prepared, trained, failed, trained again, done, and cleaned up."""

    def live(self) -> None:
        self.namespace.submit()
        self.prepare()
        for pod in self.train(1):
            self.namespace.end_pod(pod, 1)
        self.deliver(self.train(2), 2)
        self.in_phase("Succeeded", 2)
        self.clean_up()


class Suspended(Life):
    """Suspended in the middle of its training, and resumed."""

    def live(self) -> None:
        self.namespace.submit(dataset=INLINE)
        self.train(1)
        self.edit(suspend=True)
        self.in_phase("Suspended", 1)
        assert (self.namespace.all(PODS), self.namespace.all(JOBS)) == ([], [])
        self.edit(suspend=False)
        self.deliver(self.train(2), 2)
        self.in_phase("Succeeded", 2)


class Merged(Life):
    """Its adapter is merged, with a break."""

    def live(self) -> None:
        self.namespace.submit(dataset=INLINE, **MERGES)
        self.deliver(self.train(1), 1, ADAPTER)
        self.in_phase("Merging", 1)
        self.namespace.run_pods(self.pods(names.MERGING, count=1))
        self.edit(suspend=True)
        self.in_phase("Suspended", 1)
        self.edit(suspend=False)
        [pod] = self.pods(names.MERGING, count=1)
        self.namespace.end_pod(pod, 0, merged().to_termination_message())
        self.in_phase("Succeeded", 1)


class Published(Life):
    """Its result is uploaded at the second try."""

    def live(self) -> None:
        self.namespace.submit(dataset=INLINE, **PUBLISH)
        self.deliver(self.train(1), 1)
        self.in_phase("Succeeded", 1)
        [first] = self.pods(names.PUBLISHING, count=1)
        self.namespace.end_pod(first, 77, "no access")
        self.told("False")
        # Which is a reason to try again, and not to wait for the next time.
        store = PUBLISH["publish"]["objectStore"] | {"credentialsSecretRef": {"name": "right"}}
        self.edit(publish={"objectStore": store})
        [again] = eventually(
            lambda: [pod for pod in self.pods(names.PUBLISHING, count=1) if pod != first], seconds=PATIENCE
        )
        self.namespace.end_pod(again, 0, published().to_termination_message())
        self.told("True")

    def told(self, truth: str) -> None:
        """Wait until the condition says so."""
        eventually(lambda: self.namespace.condition("Published")["status"] == truth, seconds=PATIENCE)


LIVES = (Restarted, Suspended, Merged, Published)
ENDS: dict[type[Life], tuple[Any, ...]] = {
    Restarted: ("Succeeded", 1, [(1, "Error", True), (2, "Completed", False)]),
    Suspended: ("Succeeded", 0, [(1, "Suspended", False), (2, "Completed", False)]),
    Merged: ("Succeeded", 0, [(1, "Completed", False)]),
    Published: ("Succeeded", 0, [(1, "Completed", False)]),
}
# How many Jobs there ever were of each name: two only where one failed or was given back.
JOBS_MADE: dict[type[Life], dict[str, int]] = {
    Restarted: {"demo-prepare": 1, "demo-1": 1, "demo-2": 1},
    Suspended: {"demo-1": 1, "demo-2": 1},
    Merged: {"demo-1": 1, "demo-merge": 2},
    Published: {"demo-1": 1, "demo-publish": 2},
}


class Anew:
    """True of a write that was not seen before: nothing like it, but for times, versions and names of events.

    Where durations counted, an operator that takes a second to start would die of ever new writes for ever.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, str]] = set()

    def __call__(self, asked: Asked) -> bool:
        if not asked.is_write:
            return False
        body = MASKED.sub("", asked.body.decode())
        write = asked.method, asked.path, body
        if write in self._seen:
            return False
        self._seen.add(write)
        return True


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__.lower())
def test_death_at_any_write_loses_nothing_and_doubles_nothing(
    namespace: Namespace, make_operator: MakeOperator, life: type[Life]
) -> None:
    begin = namespace.kube.request("GET", namespace.path(JOBS))["metadata"]["resourceVersion"]
    operator = make_operator()
    # Each write is lost with the operator first, and the next time it is its last one.
    operator.keep_up(repeat((Rule(Anew(), Crash()), Rule(Anew(), Crash(after=True)))))
    life(namespace).live()
    settle(operator)
    faults = [request.fault for request in operator.requests if request.fault is not None]
    # What a lost write would have said may have changed by the next time, so not all come in pairs.
    assert min(faults.count(Crash()), faults.count(Crash(after=True))) > LEAST_WRITES
    assert end(namespace) == ENDS[life], namespace.status()
    made = [
        change["object"]["metadata"]["name"]
        for change in namespace.kube.since(namespace.path(JOBS), begin)
        if change["type"] == "ADDED"
    ]
    assert Counter(made) == JOBS_MADE[life]
    told = namespace.events()
    # One is posted after the status that says the same: it may be lost, but only what is told of a start is told twice.
    assert {reason: count for reason, count in Counter(told).items() if count > 1} in ({}, {"Started": 2}), (
        told
    )


def end(namespace: Namespace) -> tuple[Any, ...]:
    """What matters of the job in the end: phase, restarts, and each attempt's cause and whether it counts."""
    status = namespace.status()
    attempts = [(a["number"], a["reason"], a["counted"]) for a in status["attempts"]]
    return status["phase"], status["restarts"], attempts


def settle(operator: ChaosOperator) -> None:
    """Wait until it survives, and writes no more."""

    def rests() -> bool:
        proxy = operator.proxy
        written = len(proxy.writes)
        time.sleep(2)
        return operator.alive and proxy is operator.proxy and len(proxy.writes) == written

    eventually(rests, seconds=PATIENCE)
