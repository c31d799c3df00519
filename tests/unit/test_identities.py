"""How often the API server is asked about tokens, whoever sends them."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from finetune_api import names
from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.endpoint.identity import (
    CACHE_SECONDS,
    MAX_CONCURRENT_REVIEWS,
    MAX_REFUSALS,
    MAX_REVIEWS,
    POD_NAME,
    POD_UID,
    REFUSALS_BURST,
    RENEWAL_SECONDS,
    BusyError,
    GangMember,
    Identities,
    NotAMemberError,
    TokenRefusedError,
    TooManyRefusedError,
)

NOW = 1_000_000.0
MEMBER = GangMember("team", "demo-1-0", "demo", 1, "job-1")


def token(number: int = 0, *, about: dict[str, Any] | None = None, **changes: Any) -> str:
    """One that claims to be of the gang's pod; its signature is a number."""
    about = about or {"namespace": "team", "pod": {"name": "demo-1-0", "uid": "pod-1"}}
    payload = {"aud": [names.TOKEN_AUDIENCE], "exp": int(NOW) + 3600, "kubernetes.io": about} | changes
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    return f"e30.{encoded}.{number}"


class Reviewing(Cluster):
    """One that finds good the tokens it is told, once it is let go on; and counts what it is asked."""

    def __init__(self, *good: str) -> None:
        self.good = set(good)
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.fails = False

    def covers(self, namespace: str) -> bool:
        return True

    async def review_token(self, token: str) -> dict[str, Any]:
        self.asked.append(token)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.go.wait()
        self.at_once -= 1
        if self.fails:
            raise ApiError(500, "etcd is away")
        if token not in self.good:
            return {"authenticated": False}
        user = {
            "username": "system:serviceaccount:team:default",
            "extra": {POD_NAME: ["demo-1-0"], POD_UID: ["pod-1"]},
        }
        return {"authenticated": True, "audiences": [names.TOKEN_AUDIENCE], "user": user}

    async def pod(self, namespace: str, name: str) -> dict[str, Any]:
        labels = {names.LABEL_JOB: "demo", names.LABEL_ATTEMPT: "1"}
        owner = {"kind": "Job", "name": "demo-1", "uid": "job-1", "controller": True}
        return {"metadata": {"name": name, "uid": "pod-1", "labels": labels, "ownerReferences": [owner]}}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[[Reviewing], Identities]


@pytest.fixture
def made(clock: Clock) -> Make:
    return lambda cluster: Identities(cluster, clock)


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises((TokenRefusedError, NotAMemberError)):
        yield


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_good_token_is_reviewed_once_in_a_while(made: Make, clock: Clock) -> None:
    identities = made(cluster := Reviewing(token()))
    for _ in range(3):
        assert await identities.member(token(), "team", "a") == MEMBER
    clock.now += CACHE_SECONDS + 1
    await identities.member(token(), "team", "a")
    assert len(cluster.asked) == 2


async def test_who_reports_often_does_not_wait_for_the_next_review(made: Make, clock: Clock) -> None:
    identities = made(cluster := Reviewing(token()))
    await identities.member(token(), "team", "a")
    clock.now += CACHE_SECONDS - RENEWAL_SECONDS
    await identities.member(token(), "team", "a")
    await settle()
    assert len(cluster.asked) == 1, "it is still early"
    clock.now += 1
    cluster.go.clear()
    for _ in range(3):
        assert await identities.member(token(), "team", "a") == MEMBER
    await settle()
    assert len(cluster.asked) == 2
    cluster.go.set()
    await settle()
    clock.now += RENEWAL_SECONDS
    assert await identities.member(token(), "team", "a") == MEMBER
    assert len(cluster.asked) == 2


async def test_who_is_found_to_be_gone_meanwhile_is_not_believed_any_more(made: Make, clock: Clock) -> None:
    identities = made(cluster := Reviewing(token()))
    await identities.member(token(), "team", "a")
    clock.now += CACHE_SECONDS - 1
    cluster.good.clear()
    assert await identities.member(token(), "team", "a") == MEMBER
    await settle()
    with refused():
        await identities.member(token(), "team", "a")


async def test_a_review_that_fails_meanwhile_takes_nothing_back(made: Make, clock: Clock) -> None:
    identities = made(cluster := Reviewing(token()))
    await identities.member(token(), "team", "a")
    clock.now += CACHE_SECONDS - 1
    cluster.fails = True
    for _ in range(2 * REFUSALS_BURST):
        assert await identities.member(token(), "team", "a") == MEMBER
        await settle()
    clock.now += 2
    with pytest.raises(ApiError):
        await identities.member(token(), "team", "a")


async def test_a_token_that_runs_out_is_not_reviewed_in_vain(made: Make, clock: Clock) -> None:
    short = token(exp=int(NOW) + 60)
    identities = made(cluster := Reviewing(short))
    for _ in range(3):
        assert await identities.member(short, "team", "a") == MEMBER
        await settle()
        clock.now += 10
    assert len(cluster.asked) == 1


async def test_no_review_is_begun_beside_many_for_who_need_not_wait(made: Make, clock: Clock) -> None:
    identities = made(cluster := Reviewing(token()))
    await identities.member(token(), "team", "a")
    clock.now += CACHE_SECONDS - 1
    cluster.go.clear()
    asking = [
        asyncio.create_task(identities.member(token(number), "team", f"{number}"))
        for number in range(1, MAX_REVIEWS + 1)
    ]
    await settle()
    assert await identities.member(token(), "team", "a") == MEMBER
    cluster.go.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert cluster.asked.count(token()) == 1


async def test_a_token_is_not_believed_for_longer_than_it_is_valid(made: Make, clock: Clock) -> None:
    short = token(exp=int(NOW) + 20)
    identities = made(cluster := Reviewing(short))
    await identities.member(short, "team", "a")
    clock.now += 16
    cluster.good.clear()
    with refused():
        await identities.member(short, "team", "a")


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ("nonsense", TokenRefusedError),
        ("\udcff.\udcff.\udcff", TokenRefusedError),
        (token(aud=["https://kubernetes.default.svc"]), TokenRefusedError),
        (token(about={"namespace": "team"}), NotAMemberError),
        (token(about={"namespace": "other", "pod": {"name": "p"}}), NotAMemberError),
    ],
)
async def test_the_api_server_is_not_asked_about_what_cannot_be_good(
    made: Make, sent: str, error: type[Exception]
) -> None:
    identities = made(cluster := Reviewing(sent))
    with pytest.raises(error):
        await identities.member(sent, "team", "a")
    assert cluster.asked == []


async def test_whoever_asks_about_the_same_token_meanwhile_waits_for_the_one_answer(made: Make) -> None:
    identities = made(cluster := Reviewing(token()))
    cluster.go.clear()
    asking = [asyncio.create_task(identities.member(token(), "team", "a")) for _ in range(50)]
    await settle()
    # Even if the first one, for which it was begun, is gone.
    asking[0].cancel()
    cluster.go.set()
    answers = await asyncio.gather(*asking[1:])
    assert set(answers) == {MEMBER}
    assert len(cluster.asked) == 1


async def test_a_failure_is_everybodys_and_is_not_remembered(made: Make) -> None:
    identities = made(cluster := Reviewing(token()))
    cluster.fails = True
    for result in await asyncio.gather(
        *(identities.member(token(), "team", "a") for _ in range(3)), return_exceptions=True
    ):
        assert isinstance(result, ApiError)
    cluster.fails = False
    assert await identities.member(token(), "team", "a") == MEMBER
    assert len(cluster.asked) == 2


async def test_strangers_have_few_reviews_made_at_a_time_and_few_that_wait(made: Make) -> None:
    identities = made(cluster := Reviewing())
    cluster.go.clear()
    asking = [
        asyncio.create_task(identities.member(token(number), "team", f"{number}")) for number in range(200)
    ]
    await settle()
    assert cluster.most_at_once == MAX_CONCURRENT_REVIEWS
    cluster.go.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert sum(isinstance(result, BusyError) for result in results) == 200 - MAX_REVIEWS
    assert sum(isinstance(result, TokenRefusedError) for result in results) == MAX_REVIEWS
    # When that is over, others have their turn.
    cluster.good.add(token(1000))
    assert await identities.member(token(1000), "team", "good") == MEMBER


async def test_an_address_with_tokens_that_are_no_good_is_not_listened_to_for_long(
    made: Make, clock: Clock
) -> None:
    identities = made(cluster := Reviewing(token(), token(1)))
    await identities.member(token(), "team", "bad")
    for number in range(REFUSALS_BURST):
        with refused():
            await identities.member(token(100 + number), "team", "bad")
    with pytest.raises(TooManyRefusedError) as told:
        await identities.member(token(99), "team", "bad")
    # Who is known, and who is elsewhere, does not feel it.
    assert await identities.member(token(), "team", "bad") == MEMBER
    assert await identities.member(token(1), "team", "good") == MEMBER
    asked = len(cluster.asked)
    clock.now += told.value.seconds
    with refused():
        await identities.member(token(99), "team", "bad")
    assert len(cluster.asked) == asked + 1


async def test_refusals_take_no_room_from_the_good_and_not_much_at_all(made: Make) -> None:
    identities = made(cluster := Reviewing(token()))
    await identities.member(token(), "team", "good")
    for number in range(1, 2 * MAX_REFUSALS):
        with refused():
            await identities.member(token(number), "team", f"{number}")
    asked = len(cluster.asked)
    assert await identities.member(token(), "team", "good") == MEMBER
    with refused():
        await identities.member(token(2 * MAX_REFUSALS - 1), "team", "bad")
    assert len(cluster.asked) == asked
    kept = [len(value) for value in vars(identities).values() if isinstance(value, dict)]
    assert max(kept) <= MAX_REFUSALS
