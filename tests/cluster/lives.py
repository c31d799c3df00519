"""FineTuneJobs brought through every phase on a real API server, with every version of them that there ever was.

The tests play the kubelet, the trainer, and Kueue.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cluster.kube import BARE_JOB, FINETUNEJOBS, JOBS, Namespace, Wire, eventually
from cluster.operators import Operator
from finetune_api.names import MERGING, PREPARATION, PUBLISHING
from finetune_api.report import Failure, Stage
from world import (
    ADAPTER,
    INLINE,
    MERGED,
    MERGES,
    OUTPUT,
    PUBLISH,
    found,
    merging,
    published,
    publishing,
    report,
)


@dataclass
class Lives:
    """A namespace in which jobs live, and the record of it."""

    namespace: Namespace
    operator: Operator
    versions: dict[str, list[Wire]] = field(default_factory=dict)
    """Every version of every job, oldest first."""

    @property
    def all(self) -> Iterator[Wire]:
        """Every version of every job."""
        for versions in self.versions.values():
            yield from versions

    def record(self, life: "Life") -> None:
        """Have a job live, and keep all its versions.

        Not for longer than the API server remembers them: somewhat more than a minute.
        """
        path, name = self.namespace.path(FINETUNEJOBS), life.__name__
        begin = self.namespace.kube.request("GET", path)["metadata"]["resourceVersion"]
        life(self, name)
        changes = self.namespace.kube.since(path, begin)
        assert {change["type"] for change in changes} <= {"ADDED", "MODIFIED", "DELETED"}, changes[-1]
        self.versions[name] = [
            change["object"]
            for change in changes
            # The last words of one that is deleted are those that it had before.
            if change["type"] != "DELETED" and change["object"]["metadata"]["name"] == name
        ]

    def trains(self, name: str, attempt: int = 1) -> list[str]:
        """The pods of a gang, in the middle of training."""
        pods = self.namespace.pods(name, attempt=attempt)
        self.namespace.run_pods(pods)
        told = report(attempt, seconds_remaining=6360)
        token = self.namespace.token(pods[0])
        code, answer = self.operator.post(self.namespace.name, name, told, token=token)
        assert code == 200, answer
        self.namespace.in_phase("Running", name)
        return pods

    def delivers(self, pods: list[str], attempt: int = 1, output: object = OUTPUT) -> None:
        """The gang comes to a good end."""
        last = report(attempt, 99, step=36, stage=Stage.FINISHED, output=output)
        for pod in reversed(pods):
            self.namespace.end_pod(pod, 0, last.to_termination_message() if pod == pods[0] else "")


Life = Callable[[Lives, str], None]


def restarted(lives: Lives, name: str) -> None:
    """Prepared, trained, broken off, trained again, done, and kept for a while."""
    lives.namespace.begin(name)
    lives.namespace.end_pod(lives.trains(name)[1], 200)
    lives.delivers(lives.trains(name, attempt=2), attempt=2)
    lives.namespace.in_phase("Succeeded", name)
    lives.namespace.patch(FINETUNEJOBS, name, {"metadata": {"labels": {"team": "support"}}})
    lives.namespace.patch(FINETUNEJOBS, name, {"spec": {"ttlSecondsAfterFinished": 0}})
    eventually(lambda: "cleanupTime" in lives.namespace.status(name))


def merged(lives: Lives, name: str) -> None:
    """Trained, and its adapter merged."""
    lives.namespace.submit(name, dataset=INLINE, **MERGES)
    lives.delivers(lives.trains(name), output=ADAPTER)
    lives.namespace.in_phase("Merging", name)
    [pod] = lives.namespace.pods(name, count=1, attempt=MERGING)
    last = merging(9, stage=Stage.FINISHED, output=MERGED)
    lives.namespace.end_pod(pod, 0, last.to_termination_message())
    lives.namespace.in_phase("Succeeded", name)


def uploaded(lives: Lives, name: str) -> None:
    """Trained, and its result uploaded at the second try."""
    lives.namespace.submit(name, dataset=INLINE, **PUBLISH)
    lives.delivers(lives.trains(name))
    [pod] = lives.namespace.pods(name, count=1, attempt=PUBLISHING)
    failure = Failure(exit_code=77, reason="AccessDenied", message="spec.publish.objectStore: no access")
    last = publishing(9, stage=Stage.FAILED, transfer=None, failure=failure)
    lives.namespace.end_pod(pod, 77, last.to_termination_message())
    eventually(lambda: lives.namespace.condition("Published", name)["status"] == "False")
    store = {"uri": "s3://models/demo", "credentialsSecretRef": {"name": "right"}}
    lives.namespace.patch(FINETUNEJOBS, name, {"spec": {"publish": {"objectStore": store}}})
    [again] = eventually(
        lambda: [one for one in lives.namespace.pods(name, count=1, attempt=PUBLISHING) if one != pod]
    )
    lives.namespace.end_pod(again, 0, published().to_termination_message())
    eventually(lambda: lives.namespace.condition("Published", name)["status"] == "True")


def queued(lives: Lives, name: str) -> None:
    """Waits in a queue of Kueue, is let go, preempted, and let go again."""
    lives.namespace.submit(name, dataset=INLINE, scheduling={"queueName": "team"})
    gang = f"{name}-1"
    lives.namespace.in_phase("Queued", name)
    lives.namespace.patch(JOBS, gang, {"spec": {"suspend": False}})
    lives.trains(name)
    lives.namespace.patch(JOBS, gang, {"spec": {"suspend": True}})
    lives.namespace.in_phase("Queued", name)
    lives.namespace.patch(JOBS, gang, {"spec": {"suspend": False}})
    lives.delivers(lives.trains(name))
    lives.namespace.in_phase("Succeeded", name)


def suspended(lives: Lives, name: str) -> None:
    """Made suspended, and suspended again while it prepares and while it trains."""

    def suspend(*, it: bool) -> None:
        lives.namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": it}})

    lives.namespace.submit(name, suspend=True)
    lives.namespace.in_phase("Suspended", name)
    suspend(it=False)
    lives.namespace.pods(name, count=1, attempt=PREPARATION)
    suspend(it=True)
    lives.namespace.in_phase("Suspended", name)
    suspend(it=False)
    lives.namespace.in_phase("Preparing", name)
    [pod] = lives.namespace.pods(name, count=1, attempt=PREPARATION)
    lives.namespace.end_pod(pod, 0, found().to_termination_message())
    lives.trains(name)
    suspend(it=True)
    lives.namespace.in_phase("Suspended", name)
    suspend(it=False)
    lives.trains(name, attempt=2)


def failed(lives: Lives, name: str) -> None:
    """Trained until the trainer refused to go on."""
    lives.namespace.begin(name)
    failure = Failure(exit_code=65, reason="InvalidData", message="no such file")
    last = report(step=None, stage=Stage.FAILED, failure=failure)
    lives.namespace.end_pod(lives.trains(name)[0], 65, last.to_termination_message())
    lives.namespace.in_phase("Failed", name)
    lives.namespace.patch(FINETUNEJOBS, name, {"spec": {"ttlSecondsAfterFinished": 0}})
    eventually(lambda: "cleanupTime" in lives.namespace.status(name))


def unprepared(lives: Lives, name: str) -> None:
    """Refused for its data."""
    lives.namespace.submit(name)
    lives.namespace.in_phase("Preparing", name)
    [pod] = lives.namespace.pods(name, count=1, attempt=PREPARATION)
    failure = Failure(exit_code=65, reason="InvalidData", message="2 rows have no role", details=["line 3"])
    last = report(PREPARATION, 9, None, stage=Stage.FAILED, failure=failure)
    lives.namespace.end_pod(pod, 65, last.to_termination_message())
    lives.namespace.in_phase("Failed", name)


def corrected(lives: Lives, name: str) -> None:
    """Refused for its spec, and then corrected."""
    lives.namespace.submit(name, method="osft", osft={"targetPatterns": ["other["]})
    lives.namespace.in_phase("Failed", name)
    lives.namespace.patch(FINETUNEJOBS, name, {"spec": {"osft": {"targetPatterns": ["other"]}}})
    lives.namespace.in_phase("Preparing", name)


def blocked(lives: Lives, name: str) -> None:
    """Somebody else has the name of its Job, and gives it up."""
    theirs = f"{name}-1"
    lives.namespace.create(JOBS, BARE_JOB | {"metadata": {"name": theirs}})
    lives.namespace.submit(name, dataset=INLINE)
    eventually(lambda: lives.namespace.condition("Stalled", name)["reason"] == "NameConflict")
    lives.namespace.delete(JOBS, theirs, propagationPolicy="Background")
    eventually(lambda: lives.namespace.condition("Stalled", name)["status"] == "False")


def refused(lives: Lives, name: str) -> None:
    """The API server will not have its Job, and then will."""
    quotas = "/api/v1/namespaces/{namespace}/resourcequotas"
    quota = {"metadata": {"name": name}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    lives.namespace.create(quotas, quota)
    eventually(lambda: "hard" in lives.namespace.get(quotas, name)["status"])
    lives.namespace.submit(name)
    eventually(lambda: lives.namespace.condition("Stalled", name)["reason"] == "Refused")
    lives.namespace.delete(quotas, name)
    lives.namespace.in_phase("Preparing", name)


def deleted(lives: Lives, name: str) -> None:
    """Deleted while it trains, what it owns first."""
    lives.namespace.submit(name, dataset=INLINE)
    lives.trains(name)
    lives.namespace.delete(FINETUNEJOBS, name, propagationPolicy="Foreground")
    eventually(lambda: lives.namespace.belongings(name) == [])


LIVES: tuple[Life, ...] = (
    restarted,
    merged,
    uploaded,
    queued,
    suspended,
    failed,
    unprepared,
    corrected,
    blocked,
    refused,
    deleted,
)
