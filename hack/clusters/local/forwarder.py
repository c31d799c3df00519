"""A door into the cluster's network namespace: a port on this machine's loopback, passed on to one inside.

A program of its own (`python -m clusters.local.forwarder`). A socket belongs to the network namespace in which it
was made, so the listening socket is made first, outside, and the process then moves inside for good.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import socket
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_CHUNK = 256 * 1024


def enter_network_namespace(file: Path) -> None:
    """Move this thread (and what it starts) into the network namespace that `file` stands for.

    Raises:
        OSError: the file is no such namespace, or this process may not enter it.
    """
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    with file.open() as opened:
        if libc.setns(opened.fileno(), _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(file))


async def forward(listener: socket.socket, host: str, port: int) -> None:
    """Pass every connection that `listener` accepts on to `host`:`port`, for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()  # nobody listens inside: hang up
            return
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(_copy(reader, inner_writer))
                directions.create_task(_copy(inner_reader, writer))
        except* ConnectionError:
            pass  # one side has gone away, and the other is told below
        finally:
            for end in (writer, inner_writer):
                end.close()  # which still sends what has been written

    server = await asyncio.start_server(serve, sock=listener)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    # Only this direction is at its end: `kubectl exec -i` closes its input and still waits for output.
    with contextlib.suppress(OSError):
        writer.write_eof()


def main() -> None:
    """Listen, move inside, and forward until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where to listen, on 127.0.0.1")
    parser.add_argument("--namespace", type=Path, required=True, help="file of the network namespace")
    parser.add_argument("--target-port", type=int, required=True, help="where to connect, on its 127.0.0.1")
    arguments = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", arguments.port), backlog=512)
    enter_network_namespace(arguments.namespace)
    asyncio.run(forward(listener, "127.0.0.1", arguments.target_port))


if __name__ == "__main__":
    main()
