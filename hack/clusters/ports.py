"""Free TCP ports on loopback for servers that can not choose one themselves."""

from __future__ import annotations

import random
import socket

from clusters.console import ClusterError

# Below the range from which the kernel picks the ports of outgoing connections, so that none of those can take
# a port between the moment it is found free here and the moment its server listens on it.
_RANGE = range(20000, 30000)
_TRIES = 200


def free_ports(count: int) -> list[int]:
    """`count` different ports of 127.0.0.1 on which nothing listens.

    They are drawn at random, so that control planes started at the same moment do not choose alike; and not from the
    generator that hypothesis seeds, or all its tests would.

    Raises:
        ClusterError: hardly any port is free.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise ClusterError(f"no {count} free ports among {_TRIES} tried between {_RANGE.start} and {_RANGE.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
