"""The watch layer asks for metadata, and can read a list without any."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from finetune_operator.api import JSON, METADATA, METADATA_LIST
from finetune_operator.metadata_only import LeanResponse, metadata_only

PODS = "/api/v1/pods"


@asynccontextmanager
async def asked(answers: dict[str, str]) -> AsyncIterator[tuple[ClientSession, list[str]]]:
    """A session, and what it has asked a server to accept that gives these answers, by what it is asked for."""
    accepted: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        return web.Response(text=answers.get(accepted[-1], "{}"), content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with (
        TestServer(application) as server,
        ClientSession(
            server.make_url("/"), middlewares=(metadata_only,), response_class=LeanResponse
        ) as session,
    ):
        yield session, accepted


async def test_of_lists_and_watches_only_metadata_come() -> None:
    async with asked({}) as (session, accepted):
        for path in (PODS, f"{PODS}?watch=true", "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs"):
            await (await session.get(path)).json()
    assert accepted == [METADATA_LIST, METADATA, METADATA_LIST]


async def test_everything_else_comes_whole() -> None:
    async with asked({}) as (session, accepted):
        await session.get("/api/v1")
        await session.get("/api/v1/namespaces/team/pods/demo-1-0")
        await session.post(PODS)
    assert accepted == ["*/*"] * 3


async def test_an_empty_list_is_a_list() -> None:
    """Of metadata, it is null: kopf would die of it."""
    answers = {METADATA_LIST: '{"metadata":{},"items":null}\n', JSON: '{"metadata":{},"items":[]}\n'}
    async with asked(answers) as (session, _), session.get(PODS) as response:
        assert (await response.json())["items"] == []


async def test_nobody_keeps_managed_fields() -> None:
    text = '{"items":[{"metadata":{"name":"a","managedFields":[{"manager":"kubectl"}]}}]}'
    async with asked({METADATA_LIST: text}) as (session, _), session.get(PODS) as response:
        assert await response.json() == {"items": [{"metadata": {"name": "a"}}]}
