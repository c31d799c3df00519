"""A session of aiohttp's client that asks for nothing but metadata of what is listed and watched.

An event says no more than that something has changed. What it is that changed is read when its turn comes; of the ten
kilobytes that a FineTuneJob or a pod may have, nobody would look at more than some hundred bytes.
"""

from typing import Any

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs

from finetune_operator.api import JSON, METADATA, METADATA_LIST, parse
from finetune_operator.watch_health import Watch

_COLLECTIONS = frozenset(watch.plural for watch in Watch)
# How a list of metadata ends that has none. kopf cannot read it.
_NOTHING = b'"items":null}'


async def metadata_only(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """Ask for metadata where a collection of a watched kind is asked for, and change nothing else."""
    if request.method != hdrs.METH_GET or request.url.name not in _COLLECTIONS:
        return await send(request)
    if "watch" in request.url.query:
        request.headers[hdrs.ACCEPT] = METADATA
        return await send(request)
    request.headers[hdrs.ACCEPT] = METADATA_LIST
    response = await send(request)
    if not (await response.read()).rstrip().endswith(_NOTHING):
        return response
    request.headers[hdrs.ACCEPT] = JSON
    return await send(request)


class LeanResponse(ClientResponse):
    """An answer that is parsed as the operator's others are."""

    async def json(self, **_: Any) -> Any:
        """The body, parsed."""
        return parse(await self.read())
