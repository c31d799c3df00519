"""Which pod a bearer token belongs to."""

import asyncio
import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from finetune_api import names
from finetune_operator import reading
from finetune_operator.cluster import Cluster

CACHE_SECONDS = 60.0
# A token that was refused is not reviewed again at once.
REFUSAL_CACHE_SECONDS = 10.0
EXPIRY_MARGIN_SECONDS = 5.0
MAX_CACHED = 20_000
# Strangers can make the operator ask the API server, but not for more than this at a time.
MAX_CONCURRENT_REVIEWS = 8

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


class Identities:
    """Tells, from a projected service-account token, which pod sends it. Answers are cached by the token's hash."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.time) -> None:
        self._cluster = cluster
        self._clock = clock
        self._known: dict[bytes, tuple[float, GangMember | Exception]] = {}
        self._reviews = asyncio.Semaphore(MAX_CONCURRENT_REVIEWS)

    async def member(self, token: str) -> GangMember:
        """The pod that the token was issued to.

        Raises TokenRefusedError, NotAMemberError, or what Cluster raises when the API server cannot say.
        """
        digest = hashlib.sha256(token.encode()).digest()
        until, answer = self._known.get(digest, (0.0, TokenRefusedError()))
        if until <= self._clock():
            async with self._reviews:
                answer = await self._ask(token)
            self._remember(digest, token, answer)
        if isinstance(answer, Exception):
            # A new one each time: a cached exception would gather the tracebacks of all that raised it.
            raise type(answer)(*answer.args)
        return answer

    async def _ask(self, token: str) -> GangMember | TokenRefusedError | NotAMemberError:
        review = await self._cluster.review_token(token)
        if not review.get("authenticated") or names.TOKEN_AUDIENCE not in review.get("audiences", []):
            return TokenRefusedError(f"the token is not valid for the audience {names.TOKEN_AUDIENCE!r}")
        user = review["user"]
        extra = user.get("extra", {})
        account = user["username"].split(":")
        if account[:2] != ["system", "serviceaccount"] or not extra.get(POD_NAME) or not extra.get(POD_UID):
            return NotAMemberError("the token is not bound to a pod")
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

    def _remember(self, digest: bytes, token: str, answer: GangMember | Exception) -> None:
        now = self._clock()
        if isinstance(answer, Exception):
            until = now + REFUSAL_CACHE_SECONDS
        else:
            until = min(now + CACHE_SECONDS, _expiry(token) - EXPIRY_MARGIN_SECONDS)
        if len(self._known) >= MAX_CACHED:
            self._known = {key: known for key, known in self._known.items() if known[0] > now}
        if len(self._known) < MAX_CACHED:
            self._known[digest] = (until, answer)


def _expiry(token: str) -> float:
    """When a token that the API server has found valid expires, in seconds since the epoch."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return 0.0
