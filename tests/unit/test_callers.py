"""Who may connect to the report endpoint, and how often."""

from finetune_operator.endpoint.callers import (
    BURST_SECONDS,
    CONNECTIONS_PER_SECOND,
    MAX_CONNECTIONS,
    MODEST_BURST,
    MODEST_CONNECTIONS,
    SHARE_OF_OTHERS,
    Callers,
)

SECONDS = 5
PER_SECOND = 5_000


def visits(callers: Callers, addresses: list[str], now: float) -> int:
    """How many of those that come at this moment, and are gone at once, are let in."""
    entered = [address for address in addresses if callers.enter(address, now)]
    for address in entered:
        callers.leave(address)
    return len(entered)


def flood(callers: Callers, addresses: int) -> int:
    """How many of a flood from so many addresses are let in."""
    moments = range(SECONDS * PER_SECOND)
    return sum(visits(callers, [f"{n % addresses}"], n / PER_SECOND) for n in moments)


def test_a_flood_from_one_address_gets_a_share() -> None:
    most = SHARE_OF_OTHERS * CONNECTIONS_PER_SECOND * (SECONDS + BURST_SECONDS)
    modest = MODEST_BURST + 2 * SECONDS
    assert most <= flood(Callers(), 1) <= most + modest + 2


def test_a_flood_from_everywhere_gets_what_there_is() -> None:
    most = (1 + SHARE_OF_OTHERS) * CONNECTIONS_PER_SECOND * (SECONDS + BURST_SECONDS)
    assert flood(Callers(), 5000) <= most + 2


def test_whoever_floods_keeps_nobody_out_who_is_modest() -> None:
    callers = Callers()
    for number in range(SECONDS * PER_SECOND):
        now = number / PER_SECOND
        visits(callers, [f"flood {number % 20}"], now)
        # A hundred trainers, each of which reports every five seconds.
        if number % 250 == 0:
            assert visits(callers, [f"trainer {number // 250 % 100}"], now) == 1


def test_those_behind_one_address_are_served_while_nobody_floods() -> None:
    callers = Callers()
    assert all(visits(callers, ["node"] * 2, number / 10) == 2 for number in range(10 * SECONDS))


def test_who_holds_many_connections_leaves_room_for_others() -> None:
    callers = Callers()
    held = sum(callers.enter("a", number) for number in range(MAX_CONNECTIONS))
    assert held == SHARE_OF_OTHERS * MAX_CONNECTIONS
    for number in range(MAX_CONNECTIONS - held):
        assert callers.enter(f"trainer {number}", MAX_CONNECTIONS + number)


def test_no_more_than_there_is_room_for_are_let_in_and_who_leaves_makes_room() -> None:
    callers = Callers()
    many = MAX_CONNECTIONS // MODEST_CONNECTIONS + 1
    entered = [callers.enter(f"{n % many}", n) for n in range(2 * MAX_CONNECTIONS)]
    assert sum(entered) == MAX_CONNECTIONS
    assert not callers.enter("new", 2 * MAX_CONNECTIONS)
    callers.leave("0")
    assert callers.enter("new", 2 * MAX_CONNECTIONS + 1)


def test_who_was_turned_away_may_come_when_the_flood_is_over() -> None:
    callers = Callers()
    flood(callers, 1)
    assert callers.enter("0", SECONDS + 1)
