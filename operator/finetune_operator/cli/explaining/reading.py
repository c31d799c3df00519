"""Reads, for an explanation, what is around a job."""

import asyncio

from finetune_operator.cli.cluster import status_of
from finetune_operator.cli.explaining.sight import Queue, Quota, Sight, Wire
from finetune_operator.cli.surroundings import Surroundings
from finetune_operator.lifecycle import gang
from finetune_operator.observation import reading
from finetune_operator.observation.observed import GangJob, Pod

# Of how many pods the events are asked for: those that tell something are all alike.
_MOST_ASKED = 5


async def look(around: Surroundings, name: str) -> Sight:
    """All that can be seen of a job. Raises CommandError where not even the job can."""
    wire = await around.job(name)
    # Of a status that this version does not know, nothing can be said.
    status_of(wire)
    subject = reading.subject(wire)
    jobs_wire, pods_wire = await asyncio.gather(around.jobs(name), around.pods(name))
    jobs = tuple(job for wire in jobs_wire if (job := reading.gang_job(wire, subject.uid)))
    pods = [pod for wire in pods_wire if (pod := reading.pod(wire, name))]
    newest = Sight(subject, jobs).newest
    if newest is not None:
        pods = [pod for pod in pods if pod.job_uid == newest.uid]
    pods.sort(key=lambda pod: (pod.index or 0, pod.name))
    workload = await around.workload(newest.uid) if newest is not None and newest.waits else None
    return Sight(
        subject,
        jobs,
        tuple(pods),
        await _warnings(around, newest, pods),
        workload,
        await _queue(around, newest) if newest is not None and newest.waits else None,
        tuple(around.hidden.values()),
    )


async def _warnings(
    around: Surroundings, newest: GangJob | None, pods: list[Pod]
) -> dict[str, tuple[str, str]]:
    asked = [("Pod", pod.name) for pod in pods if not pod.running and pod.end is None][:_MOST_ASKED]
    if (first := gang.hindered(pods)) is not None and ("Pod", first.name) not in asked:
        asked.append(("Pod", first.name))
    if newest is not None:
        asked.append(("Job", newest.name))
    told = await asyncio.gather(*(around.warnings(kind, name) for kind, name in asked))
    found = {name: reading.newest_warning(wires) for (_, name), wires in zip(asked, told, strict=True)}
    return {name: warning for name, warning in found.items() if warning is not None}


async def _queue(around: Surroundings, job: GangJob) -> Queue | None:
    # The administrator may have filled it in: the spec need not have it.
    name = job.queue
    if name is None:
        return None
    local = await around.local_queue(name)
    if local is None:
        return None if "localqueues" in around.hidden else Queue(name, exists=False)
    cluster = await around.cluster_queue(local["spec"]["clusterQueue"])
    status = local.get("status", {})
    inactive = [
        condition
        for condition in status.get("conditions", [])
        if condition["type"] == "Active" and condition["status"] == "False"
    ]
    return Queue(
        name,
        pending=status.get("pendingWorkloads", 0),
        admitted=status.get("admittedWorkloads", 0),
        words=inactive[0].get("message") if inactive else None,
        quotas=tuple(_quotas(status, cluster)),
    )


def _quotas(local: Wire, cluster: Wire | None) -> list[Quota]:
    """What all queues of a ClusterQueue use; where that cannot be seen, what this one does."""
    nominal = {
        (flavor["name"], resource["name"]): str(resource["nominalQuota"])
        for group in (cluster or {}).get("spec", {}).get("resourceGroups", [])
        for flavor in group["flavors"]
        for resource in flavor["resources"]
    }
    used = (cluster["status"] if cluster is not None and "status" in cluster else local).get(
        "flavorsReservation", []
    )
    return [
        Quota(
            f"{resource['name']} (flavor {flavor['name']})",
            str(resource["total"]),
            nominal.get((flavor["name"], resource["name"])),
        )
        for flavor in used
        for resource in flavor["resources"]
    ]
