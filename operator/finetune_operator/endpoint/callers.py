"""Pure: who may connect to the report endpoint, how many at a time, and how often.

A connection costs a TLS handshake before anything is known of who makes it, and the event loop that pays for it is the
one that reconciles. So what strangers can make it pay is bounded here, in all, and those who ask for little come before
those who ask for much. Who is turned away comes again: a Report is the whole state, and its trainer tries once more.
"""

from collections import Counter

from finetune_operator.endpoint.rates import Rates

# All gangs together are asked for 20 Reports a second (receiver.MAX_REPORTS_PER_SECOND); what is urgent, and the start
# of an operator that all have waited for, come on top. Each takes a millisecond or two of CPU, the handshake included.
CONNECTIONS_PER_SECOND = 200
# So many seconds' worth may come at once: those who waited while the operator had something long to do.
BURST_SECONDS = 2
# With their buffers these take some 64 MiB at worst, and well under the 1,024 files that a container may have open.
MAX_CONNECTIONS = 256

# What an address may have and still be modest. A trainer has one connection at a time, and makes two a second at most.
MODEST_CONNECTIONS = 4
MODEST_PER_SECOND = 2
MODEST_BURST = 4
# Those who want more are let in only as long as the house is not full to this share, and share a rate that is this much
# of the other: the trainers of a whole cluster, where its network hides their addresses behind one, or a flood.
SHARE_OF_OTHERS = 0.5

MAX_ADDRESSES = 10_000


class Callers:
    """Counts who is connected, and how often each address has come lately."""

    def __init__(self) -> None:
        self._connected: Counter[str] = Counter()
        self._modest = Rates[str](MODEST_PER_SECOND, burst=MODEST_BURST, most=MAX_ADDRESSES)
        self._of_modest = _Room(1.0)
        self._of_others = _Room(SHARE_OF_OTHERS)

    def enter(self, address: str, now: float) -> bool:
        """Whether a connection from this address may be; if so, it counts until it leaves. `now` is in seconds."""
        # Reading a Counter does not add to it.
        few = self._connected[address] < MODEST_CONNECTIONS
        room = self._of_modest if few and not self._modest.take(address, now) else self._of_others
        if not room.has_place(self._connected.total(), now):
            return False
        self._connected[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A connection that was let in is over."""
        self._connected[address] -= 1
        if not self._connected[address]:
            del self._connected[address]


class _Room:
    """A share of all connections, and of those that are made in a second."""

    def __init__(self, share: float) -> None:
        self._most = int(share * MAX_CONNECTIONS)
        per_second = int(share * CONNECTIONS_PER_SECOND)
        self._rate = Rates[None](per_second, burst=BURST_SECONDS * per_second, most=1)

    def has_place(self, connected: int, now: float) -> bool:
        return connected < self._most and not self._rate.take(None, now)
