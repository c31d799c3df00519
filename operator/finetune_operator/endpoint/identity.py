"""Which pod a bearer token belongs to."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from finetune_api import names
from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.endpoint.claims import Claims
from finetune_operator.endpoint.rates import Rates
from finetune_operator.observation import reading

# A pod that has gone is believed for so much longer, but only about its own Job. Where a thousand gangs train, each
# reports once in fifty seconds: a shorter time would have nearly every Report reviewed.
CACHE_SECONDS = 300.0
# In so much of that as is left in the end a Report has its token reviewed anew, and does not wait for it: the API
# server may be busy with a list just then. A thousand gangs report once in fifty seconds, two thousand in a hundred.
RENEWAL_SECONDS = 100.0
EXPIRY_MARGIN_SECONDS = 5
MAX_MEMBERS = 20_000
# A token that was refused is not reviewed again at once. Strangers can make up as many as they like, so these have no
# place among the good ones.
REFUSAL_CACHE_SECONDS = 10.0
MAX_REFUSALS = 1_000
# Nor does one address have the API server asked about much that is no good.
REFUSALS_PER_SECOND = 1.0
REFUSALS_BURST = 10
MAX_ADDRESSES = 10_000
# Strangers can make the operator ask the API server, but not for more than this at a time,
MAX_CONCURRENT_REVIEWS = 8
# and no more of them wait for that.
MAX_REVIEWS = 100
BUSY_SECONDS = 2.0

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True)
class GangMember:
    """A pod of a gang, as the API server vouches for it."""

    namespace: str
    pod: str
    job: str
    """Name of its FineTuneJob."""
    attempt: int
    job_uid: str
    """The batch/v1 Job that controls it."""


class TokenRefusedError(Exception):
    """The token is not valid for this endpoint."""


class NotAMemberError(Exception):
    """The token is valid, but its bearer is no pod of a gang."""


class TooManyRefusedError(Exception):
    """From this address came many tokens that are of no use; `seconds` is how long to wait with the next."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many tokens that are of no use came from this address")
        self.seconds = seconds


class BusyError(Exception):
    """Too many tokens wait to be reviewed."""


# What it says about a token, if it does say something.
Answer = GangMember | TokenRefusedError | NotAMemberError
# Where it does not: these are not remembered.
Unavailable = ApiError | aiohttp.ClientError | TimeoutError


class Identities:
    """Tells, from a projected service-account token, which pod sends it. Answers are cached by the token's hash."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._clock = clock
        self._members: dict[bytes, tuple[float, Answer]] = {}
        self._refusals: dict[bytes, tuple[float, Answer]] = {}
        self._refused = Rates[str](REFUSALS_PER_SECOND, burst=REFUSALS_BURST, most=MAX_ADDRESSES)
        self._reviews: dict[bytes, asyncio.Task[Answer | Unavailable]] = {}
        self._turn = asyncio.Semaphore(MAX_CONCURRENT_REVIEWS)

    async def member(self, token: str, namespace: str, address: str) -> GangMember:
        """The pod of this namespace that the token was issued to, if that is what it says.

        Raises TokenRefusedError, NotAMemberError, TooManyRefusedError, BusyError, or what Cluster raises when the API
        server cannot say.
        """
        claims = _plausible(token, namespace)
        digest = hashlib.sha256(token.encode()).digest()
        if (answer := self._known(digest)) is None:
            answer = await self._reviewed(digest, token, claims, address)
        elif self._is_to_be_renewed(digest, claims):
            # Who could not be asked about now will be with the next Report.
            with suppress(BusyError, TooManyRefusedError):
                self._begin(digest, token, claims, address)
        if isinstance(answer, Exception):
            # A new one each time: a cached exception would gather the tracebacks of all that raised it.
            raise type(answer)(*answer.args)
        return answer

    def _known(self, digest: bytes) -> Answer | None:
        until, answer = self._members.get(digest) or self._refusals.get(digest) or (0.0, None)
        return answer if until > self._clock() else None

    def _is_to_be_renewed(self, digest: bytes, claims: Claims) -> bool:
        """Whether a good token will be reviewed again soon, and may be believed for longer then."""
        if digest not in self._members or digest in self._reviews:
            return False
        until, now = self._members[digest][0], self._clock()
        return until - now < RENEWAL_SECONDS and until < _believed_until(claims, now)

    async def _reviewed(self, digest: bytes, token: str, claims: Claims, address: str) -> Answer:
        """The API server's answer. Who asks about the same token meanwhile waits for the same one."""
        review = self._reviews.get(digest)
        if review is None:
            review = self._begin(digest, token, claims, address)
        # It goes on when one that asked is gone.
        answer = await asyncio.shield(review)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    def _begin(
        self, digest: bytes, token: str, claims: Claims, address: str
    ) -> asyncio.Task[Answer | Unavailable]:
        if len(self._reviews) >= MAX_REVIEWS:
            raise BusyError("too many tokens wait to be reviewed")
        # Until it turns out to be good.
        if seconds := self._refused.take(address, self._clock()):
            raise TooManyRefusedError(seconds)
        review = asyncio.create_task(self._review(digest, token, claims, address), name="token review")
        self._reviews[digest] = review
        review.add_done_callback(lambda _: self._reviews.pop(digest))
        return review

    async def _review(self, digest: bytes, token: str, claims: Claims, address: str) -> Answer | Unavailable:
        try:
            async with self._turn:
                answer = await self._ask(token)
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            self._refused.give_back(address)
            return error
        now = self._clock()
        if isinstance(answer, GangMember):
            self._refused.give_back(address)
            _remember(self._members, digest, (_believed_until(claims, now), answer), most=MAX_MEMBERS)
        else:
            self._members.pop(digest, None)
            _remember(self._refusals, digest, (now + REFUSAL_CACHE_SECONDS, answer), most=MAX_REFUSALS)
        return answer

    async def _ask(self, token: str) -> Answer:
        review = await self._cluster.review_token(token)
        if not review.get("authenticated") or names.TOKEN_AUDIENCE not in review.get("audiences", []):
            return _not_for_us()
        user = review["user"]
        extra = user.get("extra", {})
        account = user["username"].split(":")
        if account[:2] != ["system", "serviceaccount"] or not extra.get(POD_NAME) or not extra.get(POD_UID):
            return _not_bound()
        namespace, [name], [uid] = account[2], extra[POD_NAME], extra[POD_UID]
        if not self._cluster.covers(namespace):
            return NotAMemberError(f"the jobs of namespace {namespace} are not this operator's")
        pod = await self._cluster.pod(namespace, name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return NotAMemberError(f"pod {name} is gone")
        labels, owner = pod["metadata"].get("labels", {}), reading.controller(pod)
        job = labels.get(names.LABEL_JOB, "")
        attempt = names.labelled_attempt(labels.get(names.LABEL_ATTEMPT, ""))
        if not job or attempt is None or owner.get("kind") != "Job":
            return NotAMemberError(f"pod {name} belongs to no FineTuneJob")
        return GangMember(namespace, name, job, attempt, owner["uid"])


def _believed_until(claims: Claims, now: float) -> float:
    return min(now + CACHE_SECONDS, claims.expiry - EXPIRY_MARGIN_SECONDS)


def _plausible(token: str, namespace: str) -> Claims:
    """What the token says of itself; raises for one that the API server need not be asked about."""
    try:
        claims = Claims.of(token)
    except ValueError as error:
        raise TokenRefusedError(f"the token cannot be read: {error}") from error
    if names.TOKEN_AUDIENCE not in claims.audiences:
        raise _not_for_us()
    if not claims.pod:
        raise _not_bound()
    if claims.namespace != namespace:
        raise NotAMemberError(f"the token is of namespace {claims.namespace}, not of {namespace}")
    return claims


def _not_for_us() -> TokenRefusedError:
    return TokenRefusedError(f"the token is not valid for the audience {names.TOKEN_AUDIENCE!r}")


def _not_bound() -> NotAMemberError:
    return NotAMemberError("the token is not bound to a pod")


def _remember(
    known: dict[bytes, tuple[float, Answer]], digest: bytes, answer: tuple[float, Answer], *, most: int
) -> None:
    # The newest come last.
    known.pop(digest, None)
    if len(known) >= most:
        del known[next(iter(known))]
    known[digest] = answer
