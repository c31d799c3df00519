"""How late the event loop is."""

import asyncio
import time

import pytest

from finetune_operator.monitoring import lag


def test_who_holds_the_loop_is_seen_by_how_late_it_comes() -> None:
    late: list[float] = []

    async def hold() -> None:
        beat = asyncio.create_task(lag.beat(late.append))
        await asyncio.sleep(0)
        time.sleep(lag.BEAT_SECONDS + 0.2)  # noqa: ASYNC251 - that is what is to be seen
        await asyncio.sleep(lag.BEAT_SECONDS * 1.5)
        beat.cancel()

    asyncio.run(hold())
    assert late[0] >= 0.2
    # What would have come a tenth of a second later had to wait, too.
    assert late[1] == pytest.approx(late[0] - lag.BEAT_SECONDS)
    assert late[2] < lag.BEAT_SECONDS
    assert all(seconds >= 0 for seconds in late)
    assert len(late) >= 4
