"""The watches: kopf follows three kinds, and handlers put keys on the queue. None writes or decides.

kopf's `on.event` handlers need neither annotation nor finalizer, and their failures are not retried; so they do
nothing that can fail.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from finetune_api import names
from finetune_operator import webhook
from finetune_operator.api import in_cluster
from finetune_operator.cluster import CHUNK_SIZE
from finetune_operator.kinds import Key
from finetune_operator.known import Known
from finetune_operator.monitoring.watch_health import Watch, WatchHealth
from finetune_operator.observation.pod_changes import PodChanges
from finetune_operator.observation.reading import Wire
from finetune_operator.queue import WorkQueue
from finetune_operator.tenancy import Policy

# Pods of a gang change one after the other: one look at all of them is enough.
COALESCE_SECONDS = 0.3


def registry(
    queue: WorkQueue[Key],
    health: WatchHealth,
    policy: Callable[[], Policy],
    known: Known,
    settles: Callable[[Key, Wire], bool],
) -> kopf.OperatorRegistry:
    """The watches of FineTuneJobs, and of Jobs and pods that carry a FineTuneJob's label; and the webhook.

    What they bring of FineTuneJobs, they ask `known` whether it matters, and `settles` whether all is done already.
    """
    handlers, changes = kopf.OperatorRegistry(), PodChanges()

    @kopf.on.login(registry=handlers)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        if in_cluster():
            return kopf.login_with_service_account(**arguments)
        return kopf.login_with_kubeconfig(**arguments)

    def watch(watched: Watch, enqueue: Callable[[Key, kopf.RawEvent], None]) -> None:
        @kopf.on.event(*watched.kopf_selector, registry=handlers, id=watched.name)
        async def changed(type: str | None, body: kopf.Body, event: kopf.RawEvent, **_: Any) -> None:
            metadata = body["metadata"]
            namespace, name, version = metadata["namespace"], metadata["name"], metadata["resourceVersion"]
            if type == "DELETED":
                health.gone(watched, namespace, name)
                changes.forget(namespace, name)
            else:
                health.seen(watched, namespace, name, version)
                if watched is Watch.PODS and not changes.matter(body):
                    return
            job = name if watched is Watch.FINETUNEJOBS else metadata.get("labels", {}).get(names.LABEL_JOB)
            if job is not None:
                enqueue(Key(namespace, job), event)

    def own(key: Key, event: kopf.RawEvent) -> None:
        wire, deleted = event["object"], event["type"] == "DELETED"
        if not known.matters(key, wire, deleted=deleted):
            return
        if deleted or not settles(key, wire):
            queue.add(key)

    def child(key: Key, event: kopf.RawEvent) -> None:
        queue.add_after(key, COALESCE_SECONDS)

    watch(Watch.FINETUNEJOBS, own)
    watch(Watch.JOBS, child)
    watch(Watch.PODS, child)
    webhook.register(handlers, policy)
    return handlers


def settings(webhook_server: kopf.WebhookServer) -> kopf.OperatorSettings:
    """kopf reduced to its watches and to serving the webhook, whose configuration is the chart's."""
    reduced = kopf.OperatorSettings()
    reduced.watching.chunk_size = CHUNK_SIZE
    # kopf keeps an object for as long as it waits for that object's next event: all of them after a start, when each
    # has brought its first. To begin again with an object costs next to nothing.
    reduced.queueing.idle_timeout = 0.2
    reduced.watching.connect_timeout = 10
    for watch in Watch:
        if watch.selector:
            reduced.watching.label_selectors[watch.kopf_selector] = watch.selector
    reduced.networking.connect_timeout = 10
    reduced.networking.request_timeout = 30
    reduced.networking.enforce_retry_after = True
    # kopf's own end after 54 s, and the process with them, while an API server away may answer 503 for minutes.
    reduced.networking.error_backoffs = Backoffs()
    # The three kinds are known; namespaces and CRDs need not be listed.
    reduced.scanning.disabled = True
    reduced.posting.enabled = False
    reduced.admission.server = webhook_server
    # What kopf would remember on the objects themselves is not needed, and costs several deep copies per event.
    reduced.persistence.diffbase_storage = _NoDiffBase()
    reduced.persistence.progress_storage = _NoProgress()
    return reduced


class Backoffs:
    """The seconds between tries for lists and watches, without end, and never so many that a watch is called dead."""

    def __iter__(self) -> Iterator[float]:
        yield from (1, 1, 2, 3, 5, 8, 13)
        yield from itertools.repeat(20)


class _NoDiffBase(kopf.DiffBaseStorage):
    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence
