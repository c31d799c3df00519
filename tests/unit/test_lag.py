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
        # Until one has come that was not held up.
        async with asyncio.timeout(60):
            while not late or len(late) < int(late[0] / lag.BEAT_SECONDS) + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        beat.cancel()

    asyncio.run(hold())
    assert late[0] >= 0.2
    # What would have come every tenth of a second meanwhile had to wait, too.
    held_up = int(late[0] / lag.BEAT_SECONDS)
    for beats in range(held_up + 1):
        assert late[beats] == pytest.approx(late[0] - beats * lag.BEAT_SECONDS, abs=1e-6)
    assert late[held_up] < lag.BEAT_SECONDS
    assert all(seconds >= 0 for seconds in late)
