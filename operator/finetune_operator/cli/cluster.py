"""FineTuneJobs on the cluster of the current kubeconfig."""

from typing import Any

import aiohttp
from kubernetes.aio import client, config
from pydantic import ValidationError

from finetune_api import names
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.errors import CommandError


async def connect(namespace: str | None) -> str:
    """Read the kubeconfig; returns the namespace to look in: that of its context where none is named.

    Raises CommandError when there is no usable one.
    """
    try:
        await config.load_kube_config()  # type: ignore[no-untyped-call]
        _, context = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise CommandError(f"there is no usable kubeconfig: {error}") from error
    return namespace or str(context["context"].get("namespace", "default"))


def selection(namespace: str) -> dict[str, Any]:
    """What the client is to ask about."""
    return {
        "group": names.GROUP,
        "version": names.VERSION,
        "namespace": namespace,
        "plural": names.PLURAL,
    }


def status_of(found: dict[str, Any]) -> FineTuneJobStatus:
    """The status of a job. Raises CommandError where it is one of another version."""
    try:
        return FineTuneJobStatus.model_validate(found.get("status") or {})
    except ValidationError as error:
        raise CommandError(
            f"the operator writes a status that this version of the command does not know: {error}"
        ) from error


def refusal(error: client.ApiException, name: str, namespace: str) -> CommandError:
    """What it means that the API server refuses to show a job."""
    if error.status == 404:
        return CommandError(
            f"there is no {names.SINGULAR}/{name} in namespace {namespace}; -n names another namespace"
        )
    if error.status == 403:
        return CommandError(
            f"you may not see {names.PLURAL} in namespace {namespace} (ask for the right: kubectl auth can-i get "
            f"{names.PLURAL} -n {namespace}); -n names another namespace"
        )
    return refused(error)


def refused(error: client.ApiException) -> CommandError:
    """What it means that the API server refuses anything else."""
    return CommandError(f"the API server refuses: {error.status} {error.reason}")


def unreachable(error: aiohttp.ClientError | TimeoutError) -> CommandError:
    """What it means that there is no answer."""
    return CommandError(f"the API server cannot be reached: {str(error) or 'no answer in time'}")
