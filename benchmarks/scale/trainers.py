"""Trainers that report: each with its pod's own token, over a connection of its own for every report, as they do.

They are a process of their own, with little in its memory and nothing else to do, and tell how late they were
themselves: what is measured is the operator. Started by reporting.py, with which it talks in lines of JSON.
"""

import asyncio
import gc
import json
import random
import ssl
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address

import aiohttp

from benchmarks.scale import jobs
from finetune_api import names

_ADDRESSES = IPv4Address("127.1.0.1")
# The first reports of all do not come at one moment, for gangs do not start at one.
_SPREAD_SECONDS = 30.0
_BEAT_SECONDS = 0.005
# No report takes longer.
_BEATS_KEPT = 20_000


@dataclass
class Told:
    """What the trainers have seen."""

    seconds: list[float] = field(default_factory=list)
    """How long each report took, from opening the connection to the whole answer."""
    late: list[float] = field(default_factory=list)
    """By how many seconds the trainers' own process came too late meanwhile, at worst; for each report, too."""
    intervals: list[float] = field(default_factory=list)
    """After how many seconds each was asked for the next one."""
    refused: list[str] = field(default_factory=list)
    """Reports that were not taken, and why."""


class Heart:
    """Beats in the trainers' event loop: a beat that comes late tells how long nobody else had a turn there either."""

    def __init__(self) -> None:
        self._beats: deque[tuple[float, float]] = deque(maxlen=_BEATS_KEPT)
        self._due = time.perf_counter()

    async def beat(self) -> None:
        """Until cancelled."""
        while True:
            self._due = time.perf_counter() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            now = time.perf_counter()
            self._beats.append((now, now - self._due))

    def worst(self, since: float) -> float:
        """The most by which a beat was late from then on, that included which is due; in seconds."""
        worst = max(0.0, time.perf_counter() - self._due)
        for when, late in reversed(self._beats):
            if when < since:
                break
            worst = max(worst, late)
        return worst


@dataclass(frozen=True)
class Trainer:
    """One of them: its job, its token, and its way to the operator."""

    session: aiohttp.ClientSession
    namespace: str
    job: str
    token: str

    async def report(self, sequence: int, told: Told, heart: Heart) -> float | None:
        """Report once; returns the seconds until the next one is wanted, None if this one was refused."""
        body, headers = jobs.progress(sequence).to_json(), {"Authorization": f"Bearer {self.token}"}
        path = names.report_path(self.namespace, self.job)
        began = time.perf_counter()
        async with self.session.post(path, data=body, headers=headers) as answer:
            text = await answer.text()
            told.seconds.append(time.perf_counter() - began)
        told.late.append(heart.worst(began))
        if answer.status != 200:
            told.refused.append(f"{answer.status} {text[:200]}")
            return None
        interval: float = json.loads(text)["nextReportSeconds"]
        told.intervals.append(interval)
        return interval

    async def train(self, seconds: float, told: Told, heart: Heart) -> None:
        """Report for so long, each time when it is asked to."""
        until = time.monotonic() + seconds
        pause: float | None = random.uniform(0, _SPREAD_SECONDS)
        sequence = int(time.time())
        while pause is not None and time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            sequence += 1
            pause = await self.report(sequence, told, heart)

    async def begin(self, within: float, told: Told, heart: Heart) -> None:
        """Report once, at some moment within so many seconds."""
        await asyncio.sleep(random.uniform(0, within))
        await self.report(int(time.time()), told, heart)


async def _perform(trainers: Sequence[Trainer], seconds: float, *, once: bool) -> Told:
    told, heart = Told(), Heart()
    beating = asyncio.create_task(heart.beat())
    await asyncio.gather(
        *(one.begin(seconds, told, heart) if once else one.train(seconds, told, heart) for one in trainers)
    )
    beating.cancel()
    return told


async def _main() -> None:
    given = json.loads(sys.stdin.readline())
    tls = ssl.create_default_context(cafile=given["authority"])
    async with AsyncExitStack() as stack:
        trainers = []
        for number, (job, token) in enumerate(given["tokens"].items()):
            # As pods have, each has an address of its own, by which the operator tells them apart.
            address = str(_ADDRESSES + number)
            connector = aiohttp.TCPConnector(ssl=tls, force_close=True, local_addr=(address, 0))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(given["url"], connector=connector)
            )
            trainers.append(Trainer(session, given["namespace"], job, token))
        # To look for garbage in what stays would take longer than most reports.
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            told = await _perform(trainers, asked["seconds"], once=asked["once"])
            print(json.dumps(asdict(told)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
