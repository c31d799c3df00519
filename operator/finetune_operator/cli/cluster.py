"""FineTuneJobs on the cluster of the current kubeconfig."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import yaml
from kubernetes.aio import client, config
from pydantic import ValidationError

from finetune_api import names
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.errors import CommandError


@dataclass(frozen=True)
class Context:
    """The context of the kubeconfig that a command has begun with."""

    name: str
    namespace: str


async def connect(namespace: str | None) -> str:
    """Read the kubeconfig; returns the namespace to look in: that of its context where none is named.

    Raises CommandError when there is no usable one.
    """
    context = await current_context()
    return namespace or context.namespace


async def current_context() -> Context:
    """Read the kubeconfig: clients made from now on are those of its current context. Raises as `connect` does."""
    with _readable():
        await config.load_kube_config()  # type: ignore[no-untyped-call]
        _, found = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
        return Context(found["name"], found["context"].get("namespace") or "default")


async def renew(api: client.ApiClient, context: Context) -> None:
    """Read the kubeconfig anew for a client whose token is refused: plugins give out new ones, and files change.

    Raises as `connect` does.
    """
    # By its name: somebody may have chosen another context meanwhile, which is none of this command's business.
    with _readable():
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            context=context.name, client_configuration=api.configuration
        )


@contextmanager
def _readable() -> Iterator[None]:
    where = f"there is no usable kubeconfig: {config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION}"
    try:
        yield
    except config.ConfigException as error:
        raise CommandError(f"there is no usable kubeconfig: {error}") from error
    except yaml.YAMLError as error:
        raise CommandError(f"{where} is no valid YAML: {error}") from error
    except (OSError, aiohttp.ClientError) as error:
        raise CommandError(f"{where} cannot be read: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # The client takes for granted that a file has the form of a kubeconfig.
        raise CommandError(
            f"{where} is empty, or not written as a kubeconfig is (compare kubectl config view): {error!r}"
        ) from error


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
