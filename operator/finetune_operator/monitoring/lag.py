"""How late the one event loop is in which everything happens: by so much whatever comes has to wait."""

import asyncio
from collections.abc import Callable

BEAT_SECONDS = 0.1


async def beat(late: Callable[[float], None]) -> None:
    """Tell `late`, ten times a second until cancelled, by how many seconds the loop came too late.

    The beats that fell into the time for which it was held up are told, too, each by how late it would have come: else
    one second in which nothing had its turn would count as a single beat of ten.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        now = loop.time()
        late(max(0.0, now - due))
        while (due := due + BEAT_SECONDS) < now:
            late(now - due)
