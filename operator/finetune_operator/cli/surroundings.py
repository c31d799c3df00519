"""What is around a job on its cluster, as far as the user's rights let it be seen."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from kubernetes.aio import client

from finetune_api import names
from finetune_operator import kueue
from finetune_operator.cli.cluster import connect, refusal, refused, unreachable
from finetune_operator.kinds import EVENTS, FINETUNEJOBS, JOBS, PODS, WORKLOADS, Resource

Wire = dict[str, Any]
_TIMEOUT_SECONDS = 30.0


class Surroundings:
    """Reads objects of one namespace; what may not be read is noted, in words, and is missing."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self.namespace = namespace
        self.hidden: dict[str, str] = {}
        """What this user may not see, by resource, as a sentence."""

    async def job(self, name: str) -> Wire:
        """A FineTuneJob. Raises CommandError where there is none, or none can be seen."""
        try:
            return await self._get(FINETUNEJOBS.path(self.namespace, name))
        except client.ApiException as error:
            raise refusal(error, name, self.namespace) from error

    async def jobs(self, name: str) -> list[Wire]:
        """The batch/v1 Jobs of a FineTuneJob."""
        return await self._listed(JOBS, labelSelector=f"{names.LABEL_JOB}={name}")

    async def pods(self, name: str, attempt: int | None = None) -> list[Wire]:
        """The pods of a FineTuneJob; of one attempt, or step, if it is named."""
        selector = f"{names.LABEL_JOB}={name}"
        if attempt is not None:
            selector += f",{names.LABEL_ATTEMPT}={names.attempt_label(attempt)}"
        return await self._listed(PODS, labelSelector=selector)

    async def warnings(self, kind: str, name: str) -> list[Wire]:
        """The warnings among the events about an object."""
        selector = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
        return await self._listed(EVENTS, fieldSelector=selector)

    async def workload(self, job_uid: str) -> Wire | None:
        """What Kueue has made of a Job; None if there is nothing, no Kueue, or no right to see it."""
        for resource in WORKLOADS:
            found = await self._listed(resource, labelSelector=f"{kueue.JOB_UID_LABEL}={job_uid}")
            if found or resource.plural in self.hidden:
                return found[0] if found else None
        return None

    async def local_queue(self, name: str) -> Wire | None:
        """A queue of Kueue's in this namespace; None if there is none, or no right to see it."""
        return await self._one("localqueues", name, self.namespace)

    async def cluster_queue(self, name: str) -> Wire | None:
        """What a queue of Kueue's draws from; None if there is none, or no right to see it."""
        return await self._one("clusterqueues", name, None)

    async def _one(self, plural: str, name: str, namespace: str | None) -> Wire | None:
        for version in kueue.VERSIONS:
            try:
                return await self._get(Resource(f"{kueue.GROUP}/{version}", plural).path(namespace, name))
            except client.ApiException as error:
                if error.status == 403:
                    where = f" in namespace {namespace}" if namespace is not None else ""
                    self.hidden[plural] = f"you may not see {plural}{where}"
                    return None
                if error.status != 404:
                    raise refused(error) from error
        return None

    async def _listed(self, resource: Resource, **query: str) -> list[Wire]:
        try:
            answer = await self._get(resource.path(self.namespace), **query)
        except client.ApiException as error:
            if error.status == 403:
                self.hidden[resource.plural] = (
                    f"you may not list {resource.plural} in namespace {self.namespace} (ask for the right: "
                    f"kubectl auth can-i list {resource.plural} -n {self.namespace})"
                )
                return []
            if error.status == 404:
                # The cluster has no such resource.
                return []
            raise refused(error) from error
        items: list[Wire] = answer["items"]
        return items

    async def _get(self, path: str, **query: str) -> Wire:
        arguments = await self._api.param_serialize(
            "GET",
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        try:
            response = await self._api.call_api(*arguments, _request_timeout=_TIMEOUT_SECONDS)
            text = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        if not 200 <= response.status < 300:
            raise client.ApiException(status=response.status, reason=response.reason)
        answer: Wire = json.loads(text)
        return answer


@asynccontextmanager
async def surroundings(namespace: str | None) -> AsyncIterator[Surroundings]:
    """Those in a namespace of the current kubeconfig's cluster; in that of its context if none is named."""
    namespace = await connect(namespace)
    async with client.ApiClient() as api:
        yield Surroundings(api, namespace)


async def find_job(name: str, namespace: str | None) -> Wire:
    """A job as the API server has it; `namespace` as in `surroundings`. Raises CommandError."""
    async with surroundings(namespace) as around:
        return await around.job(name)
