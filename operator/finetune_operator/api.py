"""Requests to the API server: one shared client, plain JSON in and out, every one counted and timed."""

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from finetune_operator.monitoring.metrics import NO_ANSWER, Metrics

FIELD_MANAGER = "finetune-operator"
REQUEST_TIMEOUT_SECONDS = 30.0
APPLY = "application/apply-patch+yaml; charset=utf-8"
JSON = "application/json"
# Of all objects in a list, only the metadata.
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# What is longer is parsed in a thread. An API server that lists from its cache heeds no limit: ten thousand objects
# come as one answer, which takes a second to parse, and nothing else would have its turn meanwhile.
_LONG_BYTES = 100_000

SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"


def in_cluster() -> bool:
    """Whether to talk to the API server as the pod that this is, and not as a kubeconfig says."""
    return "KUBECONFIG" not in os.environ and os.path.exists(SERVICE_ACCOUNT_TOKEN)


class ApiError(Exception):
    """The API server refused a request; `status` is the HTTP status code, `retry_after` its wish in seconds."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.retry_after = retry_after


class Api:
    """The API server, as the kubeconfig or the pod's service account reaches it."""

    def __init__(self, client: ApiClient, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics

    @classmethod
    async def connect(cls, metrics: Metrics) -> "Api":
        """Read the credentials that kubectl or a pod would use.

        Raises kubernetes.aio.config.ConfigException when there are none.
        """
        configuration = Configuration()
        if in_cluster():
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
        # With every request aiohttp would look for a proxy and read ~/.netrc, each in a thread, which costs as much as
        # the rest of the request. The one does not change, the other has nothing to do with a cluster.
        configuration.proxy = configuration.proxy or _proxy(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        return cls(ApiClient(configuration), metrics)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(
        self,
        method: str,
        path: str,
        *,
        resource: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """Send one request and return the parsed answer; `resource` names what it is about in the metrics.

        Raises ApiError for an answer other than 2xx, and aiohttp.ClientError or TimeoutError without an answer.
        """
        if content_type == APPLY:
            body = _as_yaml(body)
        arguments = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        started, code = time.perf_counter(), NO_ANSWER
        try:
            response = await self._client.call_api(*arguments, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            text = await response.read()  # type: ignore[no-untyped-call]
            code = str(response.status)
        finally:
            self._metrics.api_request(method, resource, code, time.perf_counter() - started)
        answer = await asyncio.to_thread(_parsed, text) if len(text) > _LONG_BYTES else _parsed(text)
        if not 200 <= response.status < 300:
            retry_after = response.headers.get("Retry-After", "")
            raise ApiError(
                response.status,
                f"{method} {path}: {answer.get('message', response.reason)}",
                float(retry_after) if retry_after.isdecimal() else None,
            )
        return answer


def _without_managed_fields(parsed: dict[str, Any]) -> dict[str, Any]:
    # Nobody reads them, and parsed they are most of an object. Being Python, this is also where a thread that parses
    # gives way to others.
    parsed.pop("managedFields", None)
    return parsed


def _proxy(address: str) -> str | None:
    """The proxy that the environment names for this address."""
    parts = urlsplit(address)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _as_yaml(body: Any) -> bytes:
    """A body to apply. JSON is YAML, but for what is beyond U+FFFF, such as an emoji.

    YAML knows no escapes of two halves, so that stands for itself. The rest is escaped: not all of it may stand there.
    """
    text = json.dumps(body, ensure_ascii=False)
    return re.sub("[\x7f-\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _parsed(text: bytes) -> dict[str, Any]:
    # Proxies and overloaded servers answer in plain text.
    try:
        answer = json.loads(text, object_hook=_without_managed_fields)
    except ValueError:
        return {"message": text.decode(errors="replace").strip()}
    return answer if isinstance(answer, dict) else {"message": str(answer)}
