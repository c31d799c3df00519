"""The forwarder passes bytes on in both directions, and ends each direction by itself."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from clusters.local.forwarder import forward


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port that leads to a server which answers only once its client has nothing more to say."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(forward(listener, "127.0.0.1", target))
    yield listener.getsockname()[1]
    task.cancel()
    server.close()


async def exchange(port: int, question: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(question)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_side_that_has_ended_can_still_listen(port: int) -> None:
    question = b"a" * 3_000_000
    async with asyncio.timeout(10):
        assert await exchange(port, question) == question.upper()


async def test_a_slow_reader_gets_all_of_it(port: int) -> None:
    question = b"a" * 8_000_000
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        answer = bytearray()
        async with asyncio.timeout(30):
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, question)
            client.shutdown(socket.SHUT_WR)
            # So slow that the server has long hung up while the forwarder still has something to say.
            while data := await loop.sock_recv(client, 100_000):
                answer += data
                await asyncio.sleep(0.001)
    assert answer == question.upper()


async def test_connections_do_not_mix(port: int) -> None:
    questions = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*(exchange(port, question) for question in questions))
    assert answers == [question.upper() for question in questions]


async def test_nobody_inside_is_the_end_of_that_connection_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(forward(listener, "127.0.0.1", closed))
    async with asyncio.timeout(10):
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                assert await exchange(listener.getsockname()[1], b"hello") == b""
    task.cancel()
