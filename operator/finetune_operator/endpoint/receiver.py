"""The endpoint that takes Reports from trainers: HTTPS, a pod's own token, the latest sequence wins."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import datetime

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import (
    MAX_REPORT_BYTES,
    SHORTEST_REPORT_INTERVAL_SECONDS,
    Report,
    ReportReply,
)
from finetune_api.scalars import DNS_LABEL
from finetune_api.spec import JOB_NAME
from finetune_operator import validation
from finetune_operator.api import ApiError
from finetune_operator.endpoint.identity import (
    BUSY_SECONDS,
    BusyError,
    GangMember,
    Identities,
    NotAMemberError,
    TokenRefusedError,
    TooManyRefusedError,
)
from finetune_operator.endpoint.rates import Rates
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key
from finetune_operator.monitoring import logs
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.observation.observed import MAX_REPORT_INTERVAL_SECONDS, Received
from finetune_operator.queue import WorkQueue

logger = logging.getLogger(__name__)

# One gang is asked for a Report no more often than its status is written,
MIN_INTERVAL_SECONDS = 5.0
# and all gangs together for no more than this many a second.
MAX_REPORTS_PER_SECOND = 20.0
# A queue that is this deep doubles the interval.
BUSY_QUEUE_DEPTH = 50
# Reports that come close upon one another are reconciled once.
COALESCE_SECONDS = 0.5

READ_TIMEOUT_SECONDS = 10.0
# A trainer keeps to it with all that is urgent; who does not is none. What one had to wait with comes at once.
REPORTS_PER_SECOND = 1 / SHORTEST_REPORT_INTERVAL_SECONDS
REPORTS_BURST = 20
# Gangs, and addresses, whose rate is remembered.
MAX_RATES = 10_000
# Who comes while the API server cannot be asked comes again after this time.
UNAVAILABLE_SECONDS = 5.0
# One address has so many lines in the log.
REFUSALS_LOGGED_PER_SECOND = 1.0
REFUSALS_LOGGED_BURST = 20
# Of all that is wrong with a body,
MAX_PROBLEMS = 10
# and of what is said about it.
MAX_ERROR_LENGTH = 1000
# What an error tells besides its text.
_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")


def report_interval(gangs: int, queue_depth: int) -> float:
    """Seconds between two Reports of one gang, from the number of gangs that report and of jobs that wait."""
    interval = max(MIN_INTERVAL_SECONDS, gangs / MAX_REPORTS_PER_SECOND)
    return min(interval * (1 + queue_depth / BUSY_QUEUE_DEPTH), MAX_REPORT_INTERVAL_SECONDS)


class Receiver:
    """Answers POSTed Reports, keeps the newest, and has their jobs reconciled."""

    def __init__(
        self,
        identities: Identities,
        reports: Reports,
        queue: WorkQueue[Key],
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._identities = identities
        self._reports = reports
        self._queue = queue
        self._metrics = metrics
        self._clock = clock
        self._rates = Rates[str](REPORTS_PER_SECOND, burst=REPORTS_BURST, most=MAX_RATES)
        self._logged = Rates[str](REFUSALS_LOGGED_PER_SECOND, burst=REFUSALS_LOGGED_BURST, most=MAX_RATES)

    def application(self) -> web.Application:
        """The web application that serves `names.report_path`."""
        application = web.Application(middlewares=[self._answer_in_json], client_max_size=MAX_REPORT_BYTES)
        # A request for anything else is about no job.
        path = names.report_path(f"{{namespace:{DNS_LABEL}}}", f"{{name:{JOB_NAME}}}")
        application.router.add_post(path, self._report)
        return application

    @web.middleware
    async def _answer_in_json(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            self._log(request, error)
            response = web.json_response({"error": error.text or error.reason}, status=error.status)
            response.headers.update({name: error.headers[name] for name in _HEADERS if name in error.headers})
        except Exception:
            logger.exception("a Report could not be answered")
            response = web.json_response({"error": "the operator failed; its log tells why"}, status=500)
        self._metrics.reports.labels(code=response.status).inc()
        # Trainers connect for each Report; nobody else has to be waited for.
        response.force_close()
        return response

    def _log(self, request: web.Request, error: web.HTTPException) -> None:
        if self._logged.take(request.remote or "", self._clock().timestamp()) == 0:
            # What went wrong with the API server is not for strangers.
            why = error.__cause__ if error.status == web.HTTPServiceUnavailable.status_code else error.text
            logger.info("a Report was refused with %d: %s", error.status, why)

    async def _report(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        logs.about(key.namespace, key.name)
        member = await self._member(request, key)
        logs.more_about(attempt=member.attempt, pod=member.pod)
        if seconds := self._rates.take(member.job_uid, self._clock().timestamp()):
            raise web.HTTPTooManyRequests(
                text=f"{key} reports more often than every {SHORTEST_REPORT_INTERVAL_SECONDS} seconds",
                headers=_retry_after(seconds),
            )
        report = await self._read(request)
        if report.attempt != member.attempt:
            raise web.HTTPForbidden(
                text=f"pod {member.pod} belongs to attempt {member.attempt}, not to attempt {report.attempt}"
            )
        now = self._clock()
        interval = report_interval(self._reports.active(now), self._queue.depth)
        if self._reports.put(key, Received(report, member.job_uid, member.pod, now, interval)):
            self._queue.add_after(key, COALESCE_SECONDS)
        return web.json_response(ReportReply(next_report_seconds=interval).to_wire())

    async def _member(self, request: web.Request, key: Key) -> GangMember:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("a bearer token is needed: that of the pod's projected volume")
        try:
            member = await self._identities.member(token.strip(), key.namespace, request.remote or "")
        except TokenRefusedError as error:
            raise _unauthorized(str(error)) from error
        except NotAMemberError as error:
            raise web.HTTPForbidden(text=str(error)) from error
        except TooManyRefusedError as error:
            raise web.HTTPTooManyRequests(text=str(error), headers=_retry_after(error.seconds)) from error
        except BusyError as error:
            raise web.HTTPServiceUnavailable(text=str(error), headers=_retry_after(BUSY_SECONDS)) from error
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            raise web.HTTPServiceUnavailable(
                text="the API server cannot be asked just now", headers=_retry_after(UNAVAILABLE_SECONDS)
            ) from error
        if Key(member.namespace, member.job) != key:
            raise web.HTTPForbidden(
                text=f"pod {member.pod} belongs to {member.namespace}/{member.job}, not to {key}"
            )
        return member

    async def _read(self, request: web.Request) -> Report:
        if encoding := request.headers.get("Content-Encoding"):
            raise web.HTTPUnsupportedMediaType(text=f"a Report comes as it is, not in {encoding[:20]!a}")
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                body = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text="the body did not arrive in time") from error
        except (web.RequestPayloadError, ConnectionError) as error:
            raise web.HTTPBadRequest(text=f"the body did not arrive whole: {error}") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise web.HTTPRequestEntityTooLarge(
                max_size=MAX_REPORT_BYTES,
                actual_size=request.content_length or MAX_REPORT_BYTES + 1,
                text=f"a Report may have {MAX_REPORT_BYTES} bytes",
            ) from error
        try:
            return Report.from_json(body)
        except ValidationError as error:
            problems = "; ".join(validation.problems(error, Report, most=MAX_PROBLEMS))
            raise web.HTTPUnprocessableEntity(text=problems[:MAX_ERROR_LENGTH]) from error
        except ValueError as error:
            wrong = f"the body is no Report: {error}"
            raise web.HTTPUnprocessableEntity(text=wrong[:MAX_ERROR_LENGTH]) from error


def _unauthorized(text: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(seconds))}
