"""The page's server where there is no API server behind it."""

from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from kubernetes.aio.client import ApiClient, Configuration

from clusters.ports import free_ports
from finetune_operator.api import Api
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.observation.reading import Wire
from finetune_operator.page.server import FILES, page_application
from world import manifest

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    configuration = Configuration()
    [nobody] = free_ports(1)
    configuration.host = f"http://127.0.0.1:{nobody}"
    api = Api(ApiClient(configuration), Metrics())
    cluster = Cluster(api, instance="test", namespaces=["team"])
    async with TestClient(TestServer(page_application(cluster))) as client:
        yield client
    await api.close()


@pytest.mark.parametrize("path", ["/api/v1/finetunejobs", "/api/v1/namespaces/team/finetunejobs/demo"])
async def test_an_api_server_that_does_not_answer_is_told_in_words(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, await answer.text()) == (503, "the API server cannot be asked just now\n")
    assert "Content-Security-Policy" in answer.headers


async def test_a_status_that_cannot_be_read_is_told_in_words() -> None:
    class Newer(Cluster):
        def __init__(self) -> None:
            super().__init__(cast(Api, None), instance="test", namespaces=["team"])

        async def finetunejob(self, key: Key) -> Wire:
            named = {"namespace": "team", "uid": "1", "generation": 1, "resourceVersion": "7"}
            wire = manifest("demo")
            return wire | {"metadata": wire["metadata"] | named, "status": {"mood": 1}}

        async def events(self, key: Key) -> list[Wire]:
            return []

    async with TestClient(TestServer(page_application(Newer()))) as client:
        answer = await client.get("/api/v1/namespaces/team/finetunejobs/demo")
        assert answer.status == 503
        assert "status.mood: there is no such field" in await answer.text()


async def test_of_other_namespaces_than_its_own_nothing_is_asked(client: Client) -> None:
    answer = await client.get("/api/v1/namespaces/kube-system/finetunejobs/demo")
    assert answer.status == 404


async def test_every_file_that_the_page_asks_for_is_there(client: Client) -> None:
    for path in ("/", "/namespaces/team/finetunejobs/demo", *FILES):
        answer = await client.get(path)
        assert answer.status == 200
        assert (await answer.read()).strip()


async def test_it_answers_by_the_names_of_this_machine_only(client: Client) -> None:
    for host in ("localhost", "localhost:9999", "127.0.0.1:8081", "[::1]:8081"):
        assert (await client.get("/", headers={"Host": host})).status == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "x:y"):
        assert (await client.get("/", headers={"Host": host})).status == 421
