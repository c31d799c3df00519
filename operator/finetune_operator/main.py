"""The operator: everything it consists of, put together in one event loop."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import kopf
import uvloop
from aiohttp import web
from kubernetes.aio.config.config_exception import ConfigException

from finetune_api import names
from finetune_operator import handlers, webhook
from finetune_operator.api import Api, ApiError
from finetune_operator.certificate import Certificate
from finetune_operator.clock import Clock, utc_now
from finetune_operator.cluster import Cluster
from finetune_operator.controller import Controller
from finetune_operator.endpoint.identity import Identities
from finetune_operator.endpoint.listener import Listener
from finetune_operator.endpoint.receiver import Receiver
from finetune_operator.endpoint.reports import Reports
from finetune_operator.kinds import Key, Resource
from finetune_operator.monitoring import lag, logs
from finetune_operator.monitoring.health import health_application
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.monitoring.watch_health import TOLERANCE_SECONDS, Watch, WatchHealth
from finetune_operator.objects.workload import Installation
from finetune_operator.page.server import HOST as PAGE_HOST
from finetune_operator.page.server import page_application
from finetune_operator.patrol import PATROL_SECONDS, Patrol
from finetune_operator.policy_file import PolicyError, PolicyFile
from finetune_operator.queue import WorkQueue
from finetune_operator.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

WORKERS = 16
SHUTDOWN_SECONDS = 10.0
# Looks for garbage among what is young, for each among all that is remembered.
_YOUNG_PER_FULL_COLLECTION = 1000


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    patrol_seconds: float = PATROL_SECONDS,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: Callable[[], datetime] = utc_now,
) -> None:
    """Run the operator until `stop` is set.

    Every `patrol_seconds` the watches are checked; one whose events are late by `tolerance_seconds` is dead. What it
    decides by is the time that `now` tells.

    Raises OSError when a port is taken or a certificate cannot be read, PolicyError for a policy that cannot be used,
    ConfigException without credentials for the API server, and whatever ends a part that should run for ever.
    """
    metrics = Metrics()
    policy = PolicyFile(settings.policy_file, trainer_image=settings.trainer_image)
    async with AsyncExitStack() as cleanup:
        api = await Api.connect(metrics)
        cleanup.push_async_callback(api.close)
        cluster = Cluster(api, instance=socket.gethostname(), namespaces=settings.namespaces)
        reports = Reports(now())
        clock = Clock(now, reports.hearing.begin_anew)
        certificate = Certificate(settings.tls_dir, settings.report_host)
        controller = Controller(
            cluster, reports, lambda: _installation(settings, certificate), metrics, clock, policy.current
        )
        queue: WorkQueue[Key] = WorkQueue(
            controller.handle, workers=WORKERS, waited=metrics.queue_wait_seconds.observe
        )
        await _check_crd(cluster)
        health = WatchHealth(tolerance_seconds=tolerance_seconds)
        metrics.queue_depth.set_function(lambda: queue.depth)
        metrics.queue_in_flight.set_function(lambda: queue.in_flight)
        metrics.reporting_gangs.set_function(lambda: reports.active(clock()))
        metrics.unheard_gangs.set_function(lambda: reports.hearing.unheard(clock()))
        metrics.watches(health.ages, health.alive)
        metrics.certificate_expiry.set_function(lambda: certificate.expiry)

        queue.start()
        cleanup.push_async_callback(queue.stop, seconds=SHUTDOWN_SECONDS)
        receiver = Receiver(Identities(cluster), reports, queue, metrics, clock)
        listener = Listener(receiver.application(), settings.report_port, certificate.context, metrics)
        await listener.open()
        cleanup.push_async_callback(listener.close)
        # kopf, when it ends, also ends every task that was started after it: so it comes last and goes first,
        # but for the servers, whose connections are such tasks.
        rounds = Patrol(cluster, health, queue, metrics, controller.known, seconds=patrol_seconds)
        patrol = _start(cleanup, rounds.run(), "patrol")
        following = _start(cleanup, policy.follow(rounds.look_at_all), "policy")
        renewal = _start(cleanup, certificate.follow(), "certificate")
        beat = _start(cleanup, lag.beat(metrics.loop_lag_seconds.observe), "beat")
        stopping = _start(cleanup, stop.wait(), "stop")
        watches = _start(
            cleanup, _watch(queue, controller, health, policy, certificate, settings, stop), "watches"
        )
        await _serve(cleanup, health_application(health, metrics), settings.health_port)
        if settings.page:
            await _serve(cleanup, page_application(cluster), settings.page_port, host=PAGE_HOST)

        logger.info("the operator runs")
        ended, _ = await asyncio.wait(
            (stopping, patrol, following, renewal, beat, watches), return_when=asyncio.FIRST_COMPLETED
        )
        for task in ended - {stopping}:
            task.result()
            raise RuntimeError(f"{task.get_name()} ended, and should not have")
        logger.info("the operator stops")


def _installation(settings: Settings, certificate: Certificate) -> Installation:
    """As it is now: what starts later trusts the authorities of a new certificate."""
    return Installation(
        trainer_image=settings.trainer_image,
        report_url=settings.report_url,
        report_ca=certificate.authorities,
        hub_endpoint=settings.hub_endpoint,
        hub_offline=settings.hub_offline,
        pull_secrets=settings.pull_secrets,
    )


class StartupError(Exception):
    """The cluster is not ready for the operator; the message says what to do."""


async def _check_crd(cluster: Cluster) -> None:
    # kopf looks for what it is to watch only once: without the CRD it would wait for ever, and say nothing.
    try:
        await cluster.versions(Resource(Watch.FINETUNEJOBS.group_version, Watch.FINETUNEJOBS.plural), "")
    except ApiError as error:
        if error.status == 404:
            raise StartupError(
                f"the CustomResourceDefinition {names.CRD_NAME} is not installed: install the chart with its CRD, "
                "or apply crds/finetunejobs.finetune.dev.yaml"
            ) from error
        raise StartupError(str(error)) from error


async def _watch(
    queue: WorkQueue[Key],
    controller: Controller,
    health: WatchHealth,
    policy: PolicyFile,
    certificate: Certificate,
    settings: Settings,
    stop: asyncio.Event,
) -> None:
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=handlers.registry(queue, health, policy.current, controller.known, controller.settles),
        settings=handlers.settings(webhook.server(settings.tls_dir, certificate, settings.webhook_port)),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    # kopf has just taken the signals for itself; here, more than kopf must end in good order.
    _stop_on_signals(stop)
    await kopf.run_tasks(tasks, ignored=others)


def _stop_on_signals(stop: asyncio.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _serve(
    cleanup: AsyncExitStack,
    application: web.Application,
    port: int,
    host: str | None = None,
) -> None:
    runner = web.AppRunner(application, shutdown_timeout=1, access_log=None)
    await runner.setup()
    cleanup.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()


def _start(cleanup: AsyncExitStack, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Work that goes on until it is cancelled in the end."""
    task = asyncio.create_task(work, name=name)
    cleanup.push_async_callback(_cancel, task)
    return task


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def main() -> None:
    """The `finetune-operator` command. Exits with 0 when asked to stop, and with 1 on any failure."""
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.exit(f"finetune-operator: {error}")
    logs.configure(settings.log_level)
    # What is loaded by now stays. To look for garbage in it would hold up everything for some 50 ms each time.
    gc.freeze()
    # So would a look at everything that is remembered of jobs: with 11,000 of them 150 ms, every ten seconds where many
    # report, and a fifth of a restart. There is next to no garbage in it; what there is can wait for some minutes.
    gc.set_threshold(*gc.get_threshold()[:2], _YOUNG_PER_FULL_COLLECTION)
    try:
        uvloop.run(_main(settings))
    except (OSError, ConfigException, StartupError, PolicyError) as error:
        sys.exit(f"finetune-operator: {error}")
    except Exception:
        logger.exception("the operator failed")
        sys.exit(1)


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    await run(settings, stop)


if __name__ == "__main__":
    main()
