"""What the API server takes of an event's message."""

from typing import Any

import pytest

from finetune_operator.api import Api
from finetune_operator.cluster import MAX_EVENT_MESSAGE_BYTES, Cluster
from finetune_operator.status.transitions import Event
from world import submitted


class Noting(Api):
    """An API server that takes everything."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def request(self, *_: Any, body: Any = None, **__: Any) -> dict[str, Any]:
        self.bodies.append(body)
        return {}


async def posted(message: str) -> str:
    api = Noting()
    await Cluster(api, instance="here").post(submitted(), Event("Failed", message, "Warning"))
    [body] = api.bodies
    return str(body["message"])


@pytest.mark.parametrize("letter", ["x", "ü", "\N{GRINNING FACE}"])
async def test_a_long_message_keeps_what_happened_and_what_to_do(letter: str) -> None:
    found = await posted(f"the loss is no number: {letter * 2000}. Lower spec.hyperparameters.learningRate.")
    assert len(found.encode()) <= MAX_EVENT_MESSAGE_BYTES
    assert found.startswith("the loss is no number: ")
    assert found.endswith(". Lower spec.hyperparameters.learningRate.")


async def test_one_that_fits_is_whole() -> None:
    message = "ü" * (MAX_EVENT_MESSAGE_BYTES // 2)
    assert await posted(message) == message
