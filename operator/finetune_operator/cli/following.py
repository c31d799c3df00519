"""A FineTuneJob's statuses, one after the other, as the API server tells them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.watch import Watch

from finetune_api import names
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.cluster import (
    Context,
    current_context,
    refusal,
    renew,
    selection,
    status_of,
    unreachable,
)
from finetune_operator.cli.display import Display
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.surroundings import Surroundings
from finetune_operator.cli.watching.pods import Gang, gang
from finetune_operator.lifecycle import publishing
from finetune_operator.observation import reading

# How long one watch lasts; the job is read anew after it, so a connection that died unnoticed costs no more.
WATCH_SECONDS = 60
# What it takes to answer beyond that; the client's own patience is five minutes.
GRACE_SECONDS = 15
ANSWER_SECONDS = 30
RECONNECT_SECONDS = 2.0
# How often pods are listed; what matters about them is in the status, too.
PODS_SECONDS = 3.0
# Answers that a moment later may be others.
TRANSIENT_STATUSES = {410, 429, 500, 502, 503, 504}


async def follow(
    name: str, namespace: str | None, seconds: float | None, display: Display
) -> FineTuneJobStatus:
    """Show every status of a job until the last one, and return that.

    `namespace` is that of the kubeconfig's context if None. Raises TimeoutError after `seconds`, and
    CommandError when the job cannot be followed.
    """
    context = await current_context()
    namespace = namespace or context.namespace
    async with asyncio.timeout(seconds), client.ApiClient() as api, _pods(api, namespace, name, display):
        async for found in _states(api, context, namespace, name, display):
            status = status_of(found)
            display.show(status)
            over = status.phase is not None and status.phase.is_terminal
            if over and publishing.is_settled(reading.subject(found)):
                return status
    raise AssertionError("a job is followed until it is over")


@asynccontextmanager
async def _pods(api: client.ApiClient, namespace: str, name: str, display: Display) -> AsyncIterator[None]:
    """Meanwhile show the job's pods, where there is a view that has room for them."""
    looking = asyncio.create_task(_look_at_pods(Surroundings(api, namespace), name, display))
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def _look_at_pods(around: Surroundings, name: str, display: Display) -> None:
    while display.is_live:
        try:
            found = await around.pods(name)
        except CommandError as error:
            display.show_pods(Gang(hidden=str(error)))
        else:
            if "pods" in around.hidden:
                # That will not change while somebody watches.
                display.show_pods(Gang(hidden=around.hidden["pods"]))
                return
            display.show_pods(gang([pod for wire in found if (pod := reading.pod(wire, name))]))
        await asyncio.sleep(PODS_SECONDS)


async def _states(
    client_api: client.ApiClient, context: Context, namespace: str, name: str, display: Display
) -> AsyncIterator[dict[str, Any]]:
    """The job, whenever it changes; through lost connections once it was reached, without end."""
    api, where = client.CustomObjectsApi(client_api), selection(namespace)
    reached = renewed = False
    while True:
        try:
            found: Any = await api.get_namespaced_custom_object(
                **where, name=name, _request_timeout=ANSWER_SECONDS
            )
            reached, renewed = True, False
            yield found
            async with Watch() as watch:  # type: ignore[no-untyped-call]
                async for event in watch.stream(
                    api.list_namespaced_custom_object,
                    **where,
                    field_selector=f"metadata.name={name}",
                    resource_version=found["metadata"]["resourceVersion"],
                    timeout_seconds=WATCH_SECONDS,
                    _request_timeout=WATCH_SECONDS + GRACE_SECONDS,
                ):
                    if event["type"] == "DELETED":
                        raise CommandError(f"{names.SINGULAR}/{name} was deleted")
                    yield event["raw_object"]
        except client.ApiException as error:
            if error.status == 401 and reached and not renewed:
                # Tokens of cloud providers are valid for minutes, and jobs take days.
                await renew(client_api, context)
                renewed = True
            elif error.status not in TRANSIENT_STATUSES:
                raise refusal(error, name, namespace) from error
            await asyncio.sleep(RECONNECT_SECONDS)
        except (aiohttp.ClientError, TimeoutError) as error:
            # The command's own timeout is not among these: in here, it is a CancelledError.
            if not reached:
                raise unreachable(error) from error
            display.say("Reconnecting", str(unreachable(error)))
            await asyncio.sleep(RECONNECT_SECONDS)
