"""A FineTuneJob's statuses, one after the other, as the API server tells them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.watch import Watch
from pydantic import ValidationError

from finetune_api import names
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.display import Display
from finetune_operator.cli.errors import CommandError

# How long one watch lasts; the job is read anew after it, so a connection that died unnoticed costs no more.
WATCH_SECONDS = 60
RECONNECT_SECONDS = 2.0
# Answers that a moment later may be others.
TRANSIENT_STATUSES = {410, 429, 500, 502, 503, 504}


async def follow(
    name: str, namespace: str | None, seconds: float | None, display: Display
) -> FineTuneJobStatus:
    """Show every status of a job until the last one, and return that.

    `namespace` is that of the kubeconfig's context if None. Raises TimeoutError after `seconds`, and
    CommandError when the job cannot be followed.
    """
    try:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
        _, context = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise CommandError(f"there is no usable kubeconfig: {error}") from error
    namespace = namespace or context["context"].get("namespace", "default")
    async with asyncio.timeout(seconds), client.ApiClient() as api:
        async for found in _states(client.CustomObjectsApi(api), namespace, name, display):
            try:
                status = FineTuneJobStatus.model_validate(found.get("status") or {})
            except ValidationError as error:
                raise CommandError(
                    f"the operator writes a status that this version of the command does not know: {error}"
                ) from error
            display.show(status)
            if status.phase is not None and status.phase.is_terminal:
                return status
    raise AssertionError("a job is followed until it is over")


async def _states(
    api: client.CustomObjectsApi, namespace: str, name: str, display: Display
) -> AsyncIterator[dict[str, Any]]:
    """The job, whenever it changes; through lost connections once it was reached, without end."""
    selection: dict[str, Any] = {
        "group": names.GROUP,
        "version": names.VERSION,
        "namespace": namespace,
        "plural": names.PLURAL,
    }
    reached = False
    while True:
        try:
            found: Any = await api.get_namespaced_custom_object(**selection, name=name)
            reached = True
            yield found
            async with Watch() as watch:  # type: ignore[no-untyped-call]
                async for event in watch.stream(
                    api.list_namespaced_custom_object,
                    **selection,
                    field_selector=f"metadata.name={name}",
                    resource_version=found["metadata"]["resourceVersion"],
                    timeout_seconds=WATCH_SECONDS,
                ):
                    if event["type"] == "DELETED":
                        raise CommandError(f"{names.SINGULAR}/{name} was deleted")
                    yield event["raw_object"]
        except client.ApiException as error:
            if error.status == 404:
                raise CommandError(
                    f"there is no {names.SINGULAR}/{name} in namespace {namespace}; -n names another namespace"
                ) from error
            if error.status not in TRANSIENT_STATUSES:
                raise CommandError(f"the API server refuses: {error.status} {error.reason}") from error
            await asyncio.sleep(RECONNECT_SECONDS)
        except aiohttp.ClientError as error:
            if not reached:
                raise CommandError(f"the API server cannot be reached: {error}") from error
            display.say("Reconnecting", f"the API server cannot be reached: {error}")
            await asyncio.sleep(RECONNECT_SECONDS)
