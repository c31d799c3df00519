"""What an answer of the API server costs everybody else."""

import asyncio
import json
import time
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from finetune_operator.api import Api
from finetune_operator.monitoring.metrics import Metrics

MANY = 20_000


def listed(count: int) -> bytes:
    """So many objects' metadata, as an API server sends them from its cache: in one piece, whatever the limit."""
    fields: dict[str, Any] = {"f:metadata": {"f:labels": {f"f:{number}": {} for number in range(20)}}}
    metadata = {
        "name": "demo",
        "namespace": "team",
        "resourceVersion": "7",
        "managedFields": [{"manager": "kubectl", "fieldsV1": fields}],
    }
    return json.dumps({"metadata": {}, "items": [{"metadata": metadata}] * count}).encode()


async def latest(answer: asyncio.Task[object]) -> float:
    """How many seconds this process computed at most between two turns of the event loop, until there was an answer.

    Of the processor's time, that is: on a busy machine the loop is late for other reasons, too.
    """
    worst = 0.0
    while not answer.done():
        began = time.process_time()
        await asyncio.sleep(0.001)
        worst = max(worst, time.process_time() - began)
    return worst


async def test_others_have_their_turn_while_a_long_list_is_parsed() -> None:
    text = listed(MANY)
    began = time.process_time()
    json.loads(text, object_hook=dict)
    alone = time.process_time() - began

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=text, content_type="application/json")

    application = web.Application()
    application.router.add_get("/list", answer)
    async with TestServer(application) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        api = Api(ApiClient(configuration), Metrics())
        asked = asyncio.create_task(api.request("GET", "/list", resource="pods"))
        worst = await latest(asked)
        await api.close()
    items = asked.result()["items"]
    assert len(items) == MANY
    assert items[0]["metadata"] == {"name": "demo", "namespace": "team", "resourceVersion": "7"}
    assert worst < alone / 3, f"the loop was held up for {worst:.2f} s, parsing takes {alone:.2f} s"
