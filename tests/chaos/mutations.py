"""The operator with a guard taken away: each is done in its process before it starts, and has to be noticed."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.story import hurried


def attempts_have_random_names() -> None:
    """Two operators that see at the same moment that a Job is missing each make another one."""
    import secrets

    from finetune_operator.objects import workload

    hurried()
    job = vars(workload)["_job"]

    def renamed(*arguments: Any, **named: Any) -> Any:
        _meet_the_other()
        manifest = job(*arguments, **named)
        manifest["metadata"]["name"] += f"-{secrets.token_hex(2)}"
        return manifest

    vars(workload)["_job"] = renamed


def pods_that_go_are_overlooked() -> None:
    """A pod that was asked to go counts as gone, though it may work until the end of its grace period."""
    from finetune_operator.cluster import Cluster
    from finetune_operator.observation.observed import Observed, Subject

    hurried()
    belongings = Cluster.belongings

    async def hasty(self: Cluster, subject: Subject) -> Observed:
        seen = await belongings(self, subject)
        return replace(
            seen,
            jobs=tuple(job for job in seen.jobs if not job.deleting),
            pods=tuple(pod for pod in seen.pods if pod.due is None),
        )

    vars_of(Cluster, belongings=hasty)


def deletes_without_uid() -> None:
    """Whatever has the name by now is deleted."""
    from finetune_operator.api import Api

    hurried()
    request = Api.request

    async def careless(self: Api, method: str, path: str, **named: Any) -> Any:
        if method == "DELETE":
            named["body"].pop("preconditions", None)
        return await request(self, method, path, **named)

    vars_of(Api, request=careless)


def terminal_is_left() -> None:
    """A job that is over is looked at as if it were not."""
    from finetune_api.status import Phase

    hurried()
    vars_of(Phase, is_terminal=False)


def status_is_written_for_nothing() -> None:
    """Once a second, every job's status is written as it is."""
    from finetune_operator import controller

    hurried()
    reconcile = vars(controller)["reconcile"]

    def restless(subject: Any, *others: Any) -> Any:
        outcome = reconcile(subject, *others)
        return outcome if outcome.status else replace(outcome, status=subject.status, requeue_after=1)

    vars(controller)["reconcile"] = restless


def pods_may_do_more() -> None:
    """Containers have every capability that the runtime gives by itself."""
    from finetune_operator.objects import workload

    hurried()
    job = vars(workload)["_job"]

    def loosened(*arguments: Any) -> Any:
        manifest = job(*arguments)
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            container["securityContext"].pop("capabilities")
        return manifest

    vars(workload)["_job"] = loosened


def vars_of(kind: type[Any], **members: Any) -> None:
    """Give a class other members."""
    for name, member in members.items():
        setattr(kind, name, member)


def _meet_the_other() -> None:
    """Two operators of a story wait for each other here, once: what either has seen by then, both act on."""
    story = Path(os.environ["KUBECONFIG"]).parent.parent
    (story / f"{os.getpid()}.here").touch()
    deadline = time.monotonic() + 20
    while len(list(story.glob("*.here"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
