"""The endpoint that takes Reports from trainers: HTTPS, a pod's own token, the latest sequence wins."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from finetune_api import names
from finetune_api.report import MAX_REPORT_BYTES, Report, ReportReply
from finetune_operator import logs, validation
from finetune_operator.api import ApiError
from finetune_operator.identity import GangMember, Identities, NotAMemberError, TokenRefusedError
from finetune_operator.kinds import Key
from finetune_operator.metrics import Metrics
from finetune_operator.observed import MAX_REPORT_INTERVAL_SECONDS, Received
from finetune_operator.queue import WorkQueue
from finetune_operator.reports import Reports

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

    def application(self) -> web.Application:
        """The web application that serves `names.report_path`."""
        application = web.Application(middlewares=[self._answer_in_json], client_max_size=MAX_REPORT_BYTES)
        application.router.add_post(names.report_path("{namespace}", "{name}"), self._report)
        return application

    @web.middleware
    async def _answer_in_json(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.json_response({"error": error.text or error.reason}, status=error.status)
            if error.status == web.HTTPUnauthorized.status_code:
                response.headers["WWW-Authenticate"] = "Bearer"
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            logger.warning("a Report could not be checked: %s", error)
            response = web.json_response({"error": "the API server cannot be asked just now"}, status=503)
        self._metrics.reports.labels(code=response.status).inc()
        return response

    async def _report(self, request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        logs.about(key.namespace, key.name)
        try:
            return await self._take(request, key)
        except web.HTTPException as error:
            logger.info("a Report was refused with %d: %s", error.status, error.text)
            raise

    async def _take(self, request: web.Request, key: Key) -> web.Response:
        member = await self._member(request, key)
        logs.more_about(attempt=member.attempt, pod=member.pod)
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
            raise web.HTTPUnauthorized(text="a bearer token is needed: that of the pod's projected volume")
        try:
            member = await self._identities.member(token.strip())
        except TokenRefusedError as error:
            raise web.HTTPUnauthorized(text=str(error)) from error
        except NotAMemberError as error:
            raise web.HTTPForbidden(text=str(error)) from error
        if Key(member.namespace, member.job) != key:
            raise web.HTTPForbidden(
                text=f"pod {member.pod} belongs to {member.namespace}/{member.job}, not to {key}"
            )
        return member

    async def _read(self, request: web.Request) -> Report:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                body = await request.read()
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text="the body did not arrive in time") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise web.HTTPRequestEntityTooLarge(
                max_size=MAX_REPORT_BYTES,
                actual_size=request.content_length or MAX_REPORT_BYTES + 1,
                text=f"a Report may have {MAX_REPORT_BYTES} bytes",
            ) from error
        try:
            return Report.from_json(body)
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text="; ".join(validation.problems(error, Report))) from error
        except ValueError as error:
            raise web.HTTPUnprocessableEntity(text=f"the body is no Report: {error}") from error
