"""Trainers that report: each with its pod's own token, over a connection of its own for every report, as they do."""

import asyncio
import random
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

import aiohttp

from benchmarks.operator.client import Client, at_once
from benchmarks.scale import jobs
from benchmarks.scale.stand import NAMESPACE, PODS, Stand, job_name
from finetune_api import names

_TOKENS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"
_ADDRESSES = IPv4Address("127.1.0.1")
# The first reports of all do not come at one moment, for gangs do not start at one.
_SPREAD_SECONDS = 30.0
_FIRST_PER_SECOND = 40


@dataclass
class Told:
    """What the trainers have seen."""

    seconds: list[float] = field(default_factory=list)
    """How long each report took, from opening the connection to the whole answer."""
    intervals: list[float] = field(default_factory=list)
    """After how many seconds each was asked for the next one."""
    refused: list[str] = field(default_factory=list)
    """Reports that were not taken, and why."""


def tokens(stand: Stand) -> dict[str, str]:
    """For each running job, what the kubelet would project into its first pod."""
    pods = stand.client.request("GET", f"{PODS}?labelSelector=batch.kubernetes.io/job-completion-index%3D0")
    found: dict[str, str] = {}

    def issue(job: str, pod: str, client: Client) -> None:
        spec = {
            "audiences": [names.TOKEN_AUDIENCE],
            "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod},
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        found[job] = client.request("POST", _TOKENS, body)["status"]["token"]

    tasks: list[Callable[[Client], None]] = [
        partial(issue, pod["metadata"]["labels"][names.LABEL_JOB], pod["metadata"]["name"])
        for pod in pods["items"]
    ]
    at_once(stand.kubeconfig, tasks)
    missing = {job_name(number) for number in range(stand.size.running)} - set(found)
    if missing:
        raise RuntimeError(f"{len(missing)} running jobs have no first pod, such as {min(missing)}")
    return found


def begin(stand: Stand, known: dict[str, str]) -> float:
    """Every running job reports once, within a moment that bears it: they are Running from then on.

    Returns the seconds after which a report was wanted again when all of them had been heard of.
    """
    told = Told()
    asyncio.run(_all(stand, known, len(known) / _FIRST_PER_SECOND, told, once=True))
    if told.refused:
        raise RuntimeError(f"{len(told.refused)} first reports were refused, such as: {told.refused[0]}")
    return max(told.intervals)


def report(stand: Stand, known: dict[str, str], seconds: float) -> Told:
    """All running jobs report for so long, each as often as it is asked to."""
    told = Told()
    asyncio.run(_all(stand, known, seconds, told))
    return told


async def _all(
    stand: Stand, known: dict[str, str], seconds: float, told: Told, *, once: bool = False
) -> None:
    tls = ssl.create_default_context(cafile=str(stand.operator.directory / "tls" / "ca.crt"))
    until = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        trainers = []
        for number, (job, token) in enumerate(known.items()):
            # As pods have, each has an address of its own, by which the operator tells them apart.
            address = str(_ADDRESSES + number)
            connector = aiohttp.TCPConnector(ssl=tls, force_close=True, local_addr=(address, 0))
            session = aiohttp.ClientSession(
                f"https://127.0.0.1:{stand.operator.report_port}", connector=connector
            )
            await stack.enter_async_context(session)
            trainers.append(_one(session, job, token, until, told, once=once))
        await asyncio.gather(*trainers)


async def _one(
    session: aiohttp.ClientSession, job: str, token: str, until: float, told: Told, *, once: bool
) -> None:
    spread = max(0.0, until - time.monotonic()) if once else _SPREAD_SECONDS
    pause, sequence = random.uniform(0, spread), int(time.time())
    while once or time.monotonic() + pause < until:
        await asyncio.sleep(pause)
        sequence += 1
        body, headers = jobs.progress(sequence).to_json(), {"Authorization": f"Bearer {token}"}
        began = time.perf_counter()
        async with session.post(names.report_path(NAMESPACE, job), data=body, headers=headers) as answer:
            text = await answer.text()
            told.seconds.append(time.perf_counter() - began)
            if answer.status != 200:
                told.refused.append(f"{answer.status} {text[:200]}")
                return
            pause = (await answer.json())["nextReportSeconds"]
            told.intervals.append(pause)
        if once:
            return
