"""How late the one event loop is in which everything happens: by so much whatever comes has to wait."""

import asyncio
from collections.abc import Callable

BEAT_SECONDS = 0.1


async def beat(late: Callable[[float], None]) -> None:
    """Tell `late`, ten times a second until cancelled, by how many seconds the loop came too late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        late(max(0.0, loop.time() - due))
