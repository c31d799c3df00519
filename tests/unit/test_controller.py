"""What is counted, and what is tried again, where the API server does not do as it is asked."""

import aiohttp
import pytest

from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.controller import Controller
from finetune_operator.kinds import Key
from finetune_operator.metrics import Metrics
from finetune_operator.queue import TryAgainError
from finetune_operator.reports import Reports
from world import INSTALLATION


class Refusing(Cluster):
    """A cluster that has but one answer."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def subject(self, key: Key) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "result", "raised"),
    [
        (ApiError(404, "gone"), "gone", None),
        (ApiError(409, "written meanwhile"), "conflict", TryAgainError),
        (ApiError(429, "too many", retry_after=7), "unavailable", TryAgainError),
        (ApiError(503, "starting"), "unavailable", TryAgainError),
        (aiohttp.ClientConnectionError(), "unavailable", TryAgainError),
        (TimeoutError(), "unavailable", TryAgainError),
        (ApiError(403, "no right"), "error", ApiError),
        (ValueError("a bug"), "error", ValueError),
    ],
    ids=str,
)
async def test_a_turn_is_counted_by_how_it_ended(
    error: Exception, result: str, raised: type[Exception] | None
) -> None:
    metrics = Metrics()
    controller = Controller(Refusing(error), Reports(), lambda: INSTALLATION, metrics)
    if raised is None:
        assert await controller.handle(Key("team", "demo")) is None
    else:
        with pytest.raises(raised):
            await controller.handle(Key("team", "demo"))
    counts = {
        sample.labels["result"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "finetune_reconcile_seconds_count"
    }
    assert {name for name, count in counts.items() if count} == {result}
    assert counts[result] == 1
