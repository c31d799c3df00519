"""A reverse proxy between one process of the operator and the API server: it keeps a record, and breaks things."""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
import yaml
from aiohttp import web
from kubernetes.client import Configuration

from chaos.faults import Answer, Asked, Crash, Cut, Fault, Hang, Hold, Rule, Wire, anything, chosen
from cluster.kube import Kube

T = TypeVar("T")

# Of one connection only, or reckoned anew.
NOT_FORWARDED = frozenset(
    {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding"}
)
LONGEST_ANSWER_BYTES = 1 << 26
CUT = Cut()

Keeps = Callable[[str, Wire], bool]
"""Whether a watch of this resource lets an event through."""


@dataclass
class Request:
    """A request, and what became of it."""

    asked: Asked
    fault: Fault | None
    status: int | None = None
    """What the operator was answered; None: nothing."""
    warning: str | None = None
    """What the API server had to say against it, though it did what was asked."""


@dataclass(eq=False)
class Stream:
    """An open watch."""

    resource: str
    last: Wire | None = None
    """An event to be sent as its last one."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class FaultProxy:
    """Serves in a thread of its own, on `port` of this machine, plain HTTP; behind it are TLS and the credentials.

    Writes go through one at a time: what has taken effect when the process is killed is then known.
    """

    def __init__(
        self, kube: Kube, rules: Sequence[Rule] = (), *, on_crash: Callable[[], None] = lambda: None
    ) -> None:
        """`on_crash` kills the operator's process."""
        self.requests: list[Request] = []
        self.port = 0
        self._rules = tuple(rules)
        self._on_crash = on_crash
        self._keeps: Keeps = lambda resource, event: True
        self._upstream: Configuration = kube.configuration
        self._dead = False
        self._streams: set[Stream] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        self._run(self._open())

    def close(self) -> None:
        """Serve no more; does nothing the second time."""
        if self._loop.is_closed():
            return
        self._dead = True
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def write_kubeconfig(self, file: Path) -> None:
        """Write a kubeconfig that leads to the API server through this proxy."""
        there = {"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [there],
                    "users": [{"name": "nobody", "user": {}}],
                    "contexts": [context],
                    "current-context": "proxy",
                }
            )
        )

    # The record

    @property
    def writes(self) -> list[Request]:
        """Those that would change something, oldest first."""
        return [request for request in list(self.requests) if request.asked.is_write]

    def open_watches(self, resource: str | None = None) -> int:
        """How many watches are open: of this resource, or of any."""
        return sum(resource in (None, stream.resource) for stream in list(self._streams))

    # Faults

    def add(self, *rules: Rule) -> None:
        """From now on."""
        self._rules += rules

    def heal(self) -> None:
        """No fault any more; watches that are broken stay so."""
        self._rules, self._keeps = (), lambda resource, event: True

    @contextmanager
    def outage(self, fault: Fault = CUT) -> Iterator[None]:
        """Nobody is there meanwhile: this happens to every request, and watches are cut."""
        before, self._rules = self._rules, (Rule(anything, fault, times=None),)
        self.end_watches()
        try:
            yield
        finally:
            self._rules = before

    def end_watches(self, resource: str | None = None, *, last: Wire | None = None) -> None:
        """End the open watches (of this resource, or all), each with this event as its last one."""

        async def end() -> None:
            for stream in self._streams:
                if resource in (None, stream.resource):
                    stream.last = last
                    stream.over.set()

        self._run(end())

    def let_through(self, keeps: Keeps) -> None:
        """From now on, watches bring only the events that this is true of."""
        self._keeps = keeps

    # What the server does

    def _run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(30)

    async def _open(self) -> None:
        context = ssl.create_default_context(cafile=self._upstream.ssl_ca_cert)
        assert self._upstream.cert_file is not None
        context.load_cert_chain(self._upstream.cert_file, self._upstream.key_file)
        self._one_write = asyncio.Lock()
        self._over = asyncio.Event()
        self._session = aiohttp.ClientSession(
            self._upstream.host,
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        application = web.Application(client_max_size=LONGEST_ANSWER_BYTES)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=0, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        self._over.set()
        for stream in self._streams:
            stream.over.set()
        await self._runner.cleanup()
        await self._session.close()
        # Connections with TLS are closed only a little later.
        await asyncio.sleep(0.05)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, dict(request.query), await request.read())
        if self._dead:
            return _cut(request)
        fault, self._rules = chosen(self._rules, asked)
        record = Request(asked, fault)
        self.requests.append(record)
        match fault:
            case Hang():
                await self._over.wait()
                return _cut(request)
            case Answer():
                record.status = fault.status
                headers = {"Content-Type": "application/json", **fault.headers}
                return web.Response(status=fault.status, body=fault.body, headers=headers)
            case Cut(after=False):
                return _cut(request)
            case Crash(after=False):
                return self._crash(request)
            case Hold():
                while not fault.until():  # noqa: ASYNC110 - another thread makes it so
                    await asyncio.sleep(0.01)
        if asked.is_watch:
            return await self._watch(request, record)
        if asked.is_write:
            async with self._one_write:
                return await self._forward(request, record)
        return await self._forward(request, record)

    async def _forward(self, request: web.Request, record: Request) -> web.StreamResponse:
        if self._dead:
            return _cut(request)
        try:
            async with self._ask(request, record.asked) as answer:
                body = await answer.read()
            record.warning = ", ".join(answer.headers.getall("Warning", [])) or None
        except aiohttp.ClientError:
            # The API server itself is away.
            return _cut(request)
        match record.fault:
            case Cut():
                return _cut(request)
            case Crash():
                return self._crash(request)
        record.status = answer.status
        return web.Response(status=answer.status, body=body, headers=_kept(answer.headers))

    async def _watch(self, request: web.Request, record: Request) -> web.StreamResponse:
        stream = Stream(record.asked.resource)
        try:
            async with self._ask(request, record.asked) as answer:
                record.status = answer.status
                response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
                await response.prepare(request)
                self._streams.add(stream)
                copying = asyncio.ensure_future(self._copy(answer.content, response, stream.resource))
                ending = asyncio.ensure_future(stream.over.wait())
                try:
                    await asyncio.wait((copying, ending), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (copying, ending):
                        task.cancel()
                    await asyncio.gather(copying, ending, return_exceptions=True)
                if self._dead:
                    return _cut(request)
                if stream.last is not None:
                    await response.write(json.dumps(stream.last).encode() + b"\n")
                return response
        except (aiohttp.ClientError, ConnectionResetError):
            return _cut(request)
        finally:
            self._streams.discard(stream)

    async def _copy(self, content: aiohttp.StreamReader, response: web.StreamResponse, resource: str) -> None:
        rest = b""
        async for data in content.iter_any():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not self._dead and self._keeps(resource, json.loads(line)):
                    await response.write(line + b"\n")

    def _ask(self, request: web.Request, asked: Asked) -> aiohttp.client._RequestContextManager:
        return self._session.request(
            asked.method, request.raw_path, data=asked.body or None, headers=_kept(request.headers)
        )

    def _crash(self, request: web.Request) -> web.StreamResponse:
        self._dead = True
        self._on_crash()
        return _cut(request)


def _kept(headers: "aiohttp.typedefs.LooseHeaders") -> dict[str, str]:
    return {name: value for name, value in dict(headers).items() if name.lower() not in NOT_FORWARDED}


def _cut(request: web.Request) -> web.StreamResponse:
    """No answer: the connection is gone."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
