"""What the operator reads from and writes to the cluster; nothing else talks to the API server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from finetune_api import names
from finetune_api.status import Condition, FineTuneJobStatus
from finetune_operator import kueue
from finetune_operator.api import APPLY, FIELD_MANAGER, JSON, METADATA_LIST, Api, ApiError
from finetune_operator.kinds import (
    APPLIED,
    CONFIGMAPS,
    EVENTS,
    FINETUNEJOBS,
    JOBS,
    PODS,
    WORKLOADS,
    Key,
    Resource,
    resource_of,
)
from finetune_operator.objects import pod_groups
from finetune_operator.objects.pods import Manifest
from finetune_operator.observation import reading
from finetune_operator.observation.observed import GangJob, Observed, Owned, Subject, Taken
from finetune_operator.observation.reading import Wire
from finetune_operator.status.transitions import Event

MAX_EVENT_MESSAGE_BYTES = 1024
# A list of every object of a kind comes in pieces of this many. There may be some ten kilobytes of each, and parsing a
# piece must not hold up the operator.
CHUNK_SIZE = 100


class UnknownKindError(Exception):
    """The cluster has no such kind of objects; the message says what brings it."""


class Cluster:
    """The API server in the operator's own words.

    Every method raises ApiError where the API server refuses for a reason that the method does not expect.
    """

    def __init__(self, api: Api, *, instance: str, namespaces: Sequence[str] = ()) -> None:
        """`instance` is this operator's name in events.

        What it is about are the `namespaces`, for it has no rights in others; if there are none: all of them.
        """
        self._api = api
        self._instance = instance
        self._namespaces = tuple(namespaces)
        self._last_event = 0

    def covers(self, namespace: str) -> bool:
        """Whether the jobs of a namespace are this operator's."""
        return not self._namespaces or namespace in self._namespaces

    async def subject(self, key: Key) -> Subject | None:
        """The FineTuneJob as it is now; None if there is none.

        Never from a cache: a terminal status that is not seen would start a job again.
        """
        wire = await self.finetunejob(key)
        return None if wire is None else reading.subject(wire)

    async def finetunejob(self, key: Key) -> Wire | None:
        """The same as it travels."""
        return await self._get(FINETUNEJOBS, key.namespace, key.name)

    async def belongings(self, subject: Subject) -> Observed:
        """The Jobs and pods of a FineTuneJob, as they are now: a gang may only start when no pod is left.

        Where Kueue may take pods away, Jobs are read last: none is then seen going whose Job is not seen suspended.
        """
        if subject.job is not None and subject.job.spec.scheduling.queue_name is not None:
            pods = await self._labelled(PODS, subject)
            jobs = await self._labelled(JOBS, subject)
        else:
            jobs, pods = await asyncio.gather(self._labelled(JOBS, subject), self._labelled(PODS, subject))
        return Observed(
            jobs=tuple(job for wire in jobs if (job := reading.gang_job(wire, subject.uid))),
            pods=tuple(pod for wire in pods if (pod := reading.pod(wire, subject.name))),
        )

    async def complaint(self, namespace: str, kind: str, name: str) -> tuple[str, str] | None:
        """The newest warning about an object, as a word and a sentence: of a pod's volumes, say, nothing else tells."""
        answer = await self._api.request(
            "GET",
            EVENTS.path(namespace),
            resource=EVENTS.plural,
            query={"fieldSelector": f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"},
        )
        return reading.newest_warning(answer["items"])

    async def workload(self, namespace: str, job_uid: str) -> Wire | None:
        """What Kueue has made of a Job; None if there is nothing, no Kueue, or no right to see it."""
        for resource in WORKLOADS:
            try:
                answer = await self._api.request(
                    "GET",
                    resource.path(namespace),
                    resource=resource.plural,
                    query={"labelSelector": f"{kueue.JOB_UID_LABEL}={job_uid}"},
                )
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
            else:
                return next(iter(answer["items"]), None)
        return None

    def job_lists(self) -> AsyncIterator[list[Wire]]:
        """All FineTuneJobs, piece by piece: of thousands, no more than a piece need be in memory at once."""
        return self._pieces(FINETUNEJOBS)

    async def events(self, key: Key) -> list[Wire]:
        """The events about a FineTuneJob."""
        about = f"involvedObject.kind={names.KIND},involvedObject.name={key.name}"
        answer = await self._api.request(
            "GET", EVENTS.path(key.namespace), resource=EVENTS.plural, query={"fieldSelector": about}
        )
        items: list[Wire] = answer["items"]
        return items

    async def others(self, subject: Subject) -> tuple[Owned, ...]:
        """What else belongs to a FineTuneJob. Only ConfigMaps have names that nobody can tell beforehand."""
        namespace = subject.namespace
        service, policy, group, configs = await asyncio.gather(
            self._get(APPLIED["Service"], namespace, names.service_name(subject.name)),
            self._get(APPLIED["NetworkPolicy"], namespace, names.network_policy_name(subject.name)),
            self._pod_group(subject),
            self._labelled(CONFIGMAPS, subject),
        )
        alone = (("Service", service), ("NetworkPolicy", policy), (pod_groups.KIND, group))
        found = [*alone, *(("ConfigMap", wire) for wire in configs)]
        return tuple(
            owned for kind, wire in found if wire and (owned := reading.owned(kind, wire, subject.uid))
        )

    async def taken(self, manifests: Sequence[Manifest], subject: Subject) -> tuple[Taken, ...]:
        """Those objects that exist under the names of `manifests` and are not controlled by this FineTuneJob."""
        found = await asyncio.gather(*map(self._existing, manifests))
        return tuple(taken for wire in found if wire and (taken := reading.taken(wire, subject)))

    async def missing(self, manifests: Sequence[Manifest]) -> list[Manifest]:
        """Those of `manifests` of whose names there is no object."""
        found = await asyncio.gather(*map(self._existing, manifests))
        return [manifest for manifest, wire in zip(manifests, found, strict=True) if wire is None]

    async def apply(self, manifest: Manifest) -> None:
        """Make an object be as the manifest says (server-side apply)."""
        metadata, resource = manifest["metadata"], resource_of(manifest["kind"], manifest["apiVersion"])
        path = resource.path(metadata["namespace"], metadata["name"])
        # Whether a Job that is there may run is not the operator's to say again (see kueue.py): it gets a conflict.
        force = "false" if resource is JOBS else "true"
        try:
            await self._apply(resource, path, manifest, force=force)
        except ApiError as error:
            if error.status == 404 and manifest["kind"] not in APPLIED:
                raise UnknownKindError(pod_groups.missing(manifest)) from error
            raise

    async def keeps_volumes(self, job: Manifest) -> bool:
        """Whether the API server would keep all volumes of a Job's pods, asked without making anything.

        Those of a kind that is turned off it leaves out without a word, with their mounts; one that is older than the
        kind refuses the field.
        """
        metadata = job["metadata"]
        path = JOBS.path(metadata["namespace"], metadata["name"])
        try:
            made = await self._apply(JOBS, path, job, dryRun="All")
        except ApiError as error:
            if "field not declared in schema" in str(error):
                return False
            raise
        kept, wanted = (
            {volume["name"] for volume in found["spec"]["template"]["spec"].get("volumes", ())}
            for found in (made, job)
        )
        return wanted <= kept

    async def delete(self, namespace: str, job: GangJob) -> None:
        """Delete an attempt's Job, and no other of its name; it stays until its last pod is gone."""
        await self._delete(JOBS, namespace, job.name, job.uid, "Foreground")

    async def remove(self, namespace: str, owned: Owned) -> None:
        """Delete any other object, and no other of its name."""
        resource = resource_of(owned.kind, owned.api_version)
        await self._delete(resource, namespace, owned.name, owned.uid, "Background")

    async def write_status(self, subject: Subject, status: FineTuneJobStatus) -> Wire:
        """Write the whole status, unless the FineTuneJob has changed since it was read (ApiError 409).

        Returns the FineTuneJob as it is then, as it travels.
        """
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {
                "name": subject.name,
                "namespace": subject.namespace,
                "uid": subject.uid,
                "resourceVersion": subject.resource_version,
            },
            "status": status.to_wire(),
        }
        path = f"{FINETUNEJOBS.path(subject.namespace, subject.name)}/status"
        return await self._apply(FINETUNEJOBS, path, manifest)

    async def write_conditions(self, subject: Subject, conditions: Sequence[Condition]) -> None:
        """Write some conditions of a FineTuneJob, and nothing else of its status."""
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": subject.name, "namespace": subject.namespace, "uid": subject.uid},
            "status": {"conditions": [condition.to_wire() for condition in conditions]},
        }
        path = f"{FINETUNEJOBS.path(subject.namespace, subject.name)}/status"
        # As the usual manager, it would give up all else that it has applied, and so remove it.
        await self._apply(FINETUNEJOBS, path, manifest, fieldManager=f"{FIELD_MANAGER}-conditions")

    async def post(self, subject: Subject, event: Event) -> None:
        """Post an event about a FineTuneJob.

        kubectl describe sorts events by lastTimestamp, which holds whole seconds, and leaves those of one second in the
        order of their names; kubectl get shows that order only. So names rise with time, as client-go makes them. It
        has to be v1: events.k8s.io/v1 takes no lastTimestamp, and kubectl describe knows no other.
        """
        self._last_event = nanoseconds = max(time.time_ns(), self._last_event + 1)
        happened = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
        second = happened.strftime("%Y-%m-%dT%H:%M:%SZ")
        await self._api.request(
            "POST",
            EVENTS.path(subject.namespace),
            resource=EVENTS.plural,
            body={
                "apiVersion": EVENTS.group_version,
                "kind": "Event",
                "metadata": {"name": f"{subject.name}.{nanoseconds:016x}", "namespace": subject.namespace},
                "firstTimestamp": second,
                "lastTimestamp": second,
                "count": 1,
                "eventTime": happened.isoformat(timespec="microseconds"),
                "source": {"component": FIELD_MANAGER},
                "reportingComponent": FIELD_MANAGER,
                "reportingInstance": self._instance,
                "action": "Reconcile",
                "type": event.type,
                "reason": event.reason,
                "message": _fitting(event.message),
                "involvedObject": {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "name": subject.name,
                    "namespace": subject.namespace,
                    "uid": subject.uid,
                    "resourceVersion": subject.resource_version,
                },
            },
        )

    async def review_token(self, token: str) -> Wire:
        """The status of a TokenReview for the report endpoint's audience."""
        answer = await self._api.request(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            resource="tokenreviews",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token, "audiences": [names.TOKEN_AUDIENCE]},
            },
        )
        status: Wire = answer["status"]
        return status

    async def pod(self, namespace: str, name: str) -> Wire | None:
        """A pod as it is now; None if there is none."""
        return await self._get(PODS, namespace, name)

    async def versions(self, resource: Resource, selector: str) -> dict[tuple[str, str], str]:
        """The resourceVersion of every object of a kind, by namespace and name, from the API server's cache."""
        found: dict[tuple[str, str], str] = {}
        cached = {"labelSelector": selector, "resourceVersion": "0"}
        async for items in self._pieces(resource, query=cached, accept=METADATA_LIST):
            for item in items:
                metadata = item["metadata"]
                found[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
        return found

    async def _pieces(
        self, resource: Resource, *, query: Mapping[str, str] | None = None, accept: str = JSON
    ) -> AsyncIterator[list[Wire]]:
        """All objects of a kind that are the operator's, piece by piece.

        `query` is what else is asked; a resourceVersion, of the first piece only, for the others are of the same.
        """
        for namespace in self._namespaces or (None,):
            asked = {**(query or {}), "limit": str(CHUNK_SIZE)}
            while True:
                answer = await self._api.request(
                    "GET", resource.path(namespace), resource=resource.plural, query=asked, accept=accept
                )
                # An empty list of metadata is null.
                yield answer["items"] or []
                token = answer["metadata"].get("continue")
                if not token:
                    break
                asked = {key: value for key, value in asked.items() if key != "resourceVersion"}
                asked["continue"] = token

    async def _get(self, resource: Resource, namespace: str, name: str) -> Wire | None:
        try:
            return await self._api.request("GET", resource.path(namespace, name), resource=resource.plural)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _delete(
        self, resource: Resource, namespace: str, name: str, uid: str, propagation: str
    ) -> None:
        body = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            path = resource.path(namespace, name)
            await self._api.request("DELETE", path, resource=resource.plural, body=body)
        except ApiError as error:
            # Gone already, or another one has its name by now: either way this one is no more.
            if error.status not in (404, 409):
                raise

    async def _labelled(self, resource: Resource, subject: Subject) -> Iterable[Wire]:
        answer = await self._api.request(
            "GET",
            resource.path(subject.namespace),
            resource=resource.plural,
            query={"labelSelector": f"{names.LABEL_JOB}={subject.name}"},
        )
        items: list[Wire] = answer["items"]
        return items

    async def _existing(self, manifest: Manifest) -> Wire | None:
        metadata = manifest["metadata"]
        resource = resource_of(manifest["kind"], manifest["apiVersion"])
        return await self._get(resource, metadata["namespace"], metadata["name"])

    async def _pod_group(self, subject: Subject) -> Wire | None:
        scheduler = subject.job.spec.scheduling.pod_group if subject.job is not None else None
        if scheduler is None:
            return None
        resource = resource_of(pod_groups.KIND, pod_groups.KINDS[scheduler].api_version)
        return await self._get(resource, subject.namespace, names.pod_group_name(subject.name))

    async def _apply(self, resource: Resource, path: str, manifest: Any, **query: str) -> Wire:
        return await self._api.request(
            "PATCH",
            path,
            resource=resource.plural,
            query={"fieldManager": FIELD_MANAGER, "force": "true"} | query,
            body=manifest,
            content_type=APPLY,
        )


def _fitting(message: str) -> str:
    """The message of an event, cut in its middle as those of the status are: what to do stands last."""
    encoded = message.encode()
    if len(encoded) <= MAX_EVENT_MESSAGE_BYTES:
        return message
    half = (MAX_EVENT_MESSAGE_BYTES - 5) // 2
    first, last = (part.decode(errors="ignore") for part in (encoded[:half], encoded[-half:]))
    return f"{first} ... {last}"
