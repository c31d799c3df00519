"""The logs of pods, as the kubelets have them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
from kubernetes.aio import client

from finetune_api import names
from finetune_operator.cli.cluster import unreachable
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.gang_logs.lines import Line, stamped
from finetune_operator.observation.observed import Pod

_TIMEOUT_SECONDS = 60.0
# The client takes no time at all for five minutes.
_FOREVER_SECONDS = 365 * 86400.0
_LOOK_AGAIN_SECONDS = 2.0


@dataclass
class Logs:
    """What was read of some pods."""

    lines: list[list[Line]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    """Who has no log, and why, as sentences."""


class Kubelets:
    """Reads through the API server, with the user's own rights."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._core = client.CoreV1Api(api)
        self._namespace = namespace

    async def read(self, pods: Sequence[Pod], tail: int | None) -> Logs:
        """What each of the pods has printed so far. Raises CommandError where logs may not be read."""
        logs = Logs()
        for pod, found in zip(
            pods, await asyncio.gather(*(self._read(pod, tail) for pod in pods)), strict=True
        ):
            if isinstance(found, str):
                logs.silent.append(f"{pod.name}: {found}")
            else:
                logs.lines.append(found)
        return logs

    async def follow(
        self, pods: Sequence[Pod], tail: int | None, show: Callable[[Line], None], say: Callable[[str], None]
    ) -> None:
        """Show what the pods print, as they print it, until the last of them has ended; say who has yet to start."""
        await asyncio.gather(*(self._follow(pod, tail, show, say) for pod in pods))

    async def _follow(
        self, pod: Pod, tail: int | None, show: Callable[[Line], None], say: Callable[[str], None]
    ) -> None:
        told = None
        while isinstance(response := await self._open(pod, tail, follow=True), str):
            if response != told:
                say(f"{pod.name}: {response}")
            if response == _GONE:
                return
            told = response
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        async for text in _lines(response):
            show(stamped(pod.index or 0, text))

    async def _read(self, pod: Pod, tail: int | None) -> list[Line] | str:
        response = await self._open(pod, tail, follow=False)
        if isinstance(response, str):
            return response
        return [stamped(pod.index or 0, text) async for text in _lines(response)]

    async def _open(self, pod: Pod, tail: int | None, *, follow: bool) -> aiohttp.ClientResponse | str:
        """The answer, or why there is none, in words."""
        try:
            response = await self._core.read_namespaced_pod_log_without_preload_content(
                pod.name,
                self._namespace,
                container=names.TRAINER_CONTAINER,
                follow=follow,
                tail_lines=tail,
                timestamps=True,
                _request_timeout=_FOREVER_SECONDS if follow else _TIMEOUT_SECONDS,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        if response.status == 403:
            raise CommandError(
                f"you may not read logs in namespace {self._namespace} (ask for the right: kubectl auth can-i get "
                f"pods/log -n {self._namespace})"
            )
        if response.status == 404:
            return _GONE
        # 204 is said of a pod that has no node yet, 400 of a container that does not run yet.
        if response.status in (204, 400):
            reason = f": {pod.waiting[0]}" if pod.waiting is not None else ""
            return f"its container has not started{reason}"
        if response.status != 200:
            return f"its kubelet does not give its log: {response.status} {response.reason}"
        return response


_GONE = "the pod is gone"


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandError(f"a log broke off, though its pod may go on: {error}") from error
    if rest:
        yield rest.decode(errors="replace")
