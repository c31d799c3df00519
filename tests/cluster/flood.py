"""A flood, as a process of its own: python flood.py KIND PORT ADDRESS... ; it goes on until it is ended.

Each of the local addresses has so many at work on it at a time; tells in the end how often they tried.
"""

import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable

import uvloop

AT_A_TIME = 20


async def connect(port: int, address: str) -> None:
    """Come, and go at once: nothing costs a caller less."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.transport.abort()


async def hold(port: int, address: str) -> None:
    """Connect, and say nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    await reader.read()
    writer.transport.abort()


def post(context: ssl.SSLContext, head: bytes) -> Callable[[int, str], Awaitable[None]]:
    """Send a request whose token is another one every time; `head` lacks its last part."""
    numbers = iter(range(sys.maxsize))

    async def send(port: int, address: str) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, local_addr=(address, 0)
        )
        writer.write(head + b"%d\r\n\r\n{}" % next(numbers))
        await reader.read()
        writer.transport.abort()

    return send


async def main(kind: str, port: int, addresses: list[str]) -> None:
    """Do it until SIGTERM."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    once = {"connect": connect, "hold": hold, "post": post(context, sys.stdin.buffer.read())}[kind]
    tries = 0

    async def again_and_again(address: str) -> None:
        nonlocal tries
        while True:
            tries += 1
            with contextlib.suppress(OSError):
                await once(port, address)

    callers = [asyncio.create_task(again_and_again(address)) for address in addresses * AT_A_TIME]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    sys.stdout.write(str(tries))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
