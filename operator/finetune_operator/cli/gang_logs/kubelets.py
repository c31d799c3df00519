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
from finetune_operator.observation import reading
from finetune_operator.observation.observed import Pod

_TIMEOUT_SECONDS = 60.0
# The client takes no time at all for five minutes.
_FOREVER_SECONDS = 365 * 86400.0
_LOOK_AGAIN_SECONDS = 2.0
_GONE = "the pod is gone"
_NOT_STARTED = "its container has not started"


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
        """Show what the pods print, as they print it, until the last of them has ended; say who has yet to start.

        Raises CommandError where logs may not be read, or none of the pods has had one.
        """
        if not any(await asyncio.gather(*(self._follow(pod, tail, show, say) for pod in pods))):
            raise CommandError("none of the pods has a log")

    async def _follow(
        self, pod: Pod, tail: int | None, show: Callable[[Line], None], say: Callable[[str], None]
    ) -> bool:
        """Follow one, and tell whether it has a log."""
        told, over = None, False
        while isinstance(response := await self._open(pod, tail, follow=True), str):
            found = None if response == _GONE else await self._look(pod)
            if found is None:
                say(f"{pod.name}: {_GONE}")
                return False
            was_over, (pod, over) = over, found
            words = _words(response, pod, over=over)
            # It may have begun and ended since it was asked for its log.
            if words != told and over is was_over:
                say(f"{pod.name}: {words}")
                told = words
            if over and was_over:
                return False
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        async for text in _lines(response):
            show(stamped(pod.index or 0, text))
        return True

    async def _read(self, pod: Pod, tail: int | None) -> list[Line] | str:
        response = await self._open(pod, tail, follow=False)
        if isinstance(response, str):
            return _words(response, pod, over=pod.end is not None)
        return [stamped(pod.index or 0, text) async for text in _lines(response)]

    async def _look(self, pod: Pod) -> tuple[Pod, bool] | None:
        """The pod as it is now, and whether it is over; None if it is gone."""
        try:
            # Listed: that right is needed to find the pods, the one to get a pod is not.
            response = await self._core.list_namespaced_pod_without_preload_content(
                self._namespace, field_selector=f"metadata.name={pod.name}", _request_timeout=_TIMEOUT_SECONDS
            )
            if response.status != 200:
                return pod, False
            items = (await response.json())["items"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from error
        if not items:
            return None
        now = reading.pod(items[0], items[0]["metadata"].get("labels", {}).get(names.LABEL_JOB, ""))
        return now or pod, items[0].get("status", {}).get("phase") in ("Failed", "Succeeded")

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
            return _NOT_STARTED
        if response.status != 200:
            return f"its kubelet does not give its log: {response.status} {response.reason}"
        return response


def _words(answer: str, pod: Pod, *, over: bool) -> str:
    """Why there is no log of a pod, for people."""
    if answer == _GONE:
        return answer
    if over:
        told = [] if pod.end is None else [part for part in (pod.end.reason, pod.end.words) if part]
        said = "there is no log of it" if answer == _NOT_STARTED else answer
        return ": ".join([f"{said}, and it is over", *told])
    reason = f": {pod.waiting[0]}" if answer == _NOT_STARTED and pod.waiting is not None else ""
    return answer + reason


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
