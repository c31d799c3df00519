"""A watch that has stopped is noticed, and what it missed is healed meanwhile."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import write_certificate
from cluster.kube import BARE_JOB, JOBS, PODS, Kube, Namespace, eventually
from clusters.ports import free_ports
from finetune_operator.main import run
from finetune_operator.settings import Settings
from world import INLINE

PATROL_SECONDS, TOLERANCE_SECONDS = 0.5, 3.0


class Here:
    """An operator in this process, whose insides can be broken; in a thread, for kopf thinks every task its own."""

    def __init__(self, tls_dir: Path) -> None:
        report_port, webhook_port, self._health_port = free_ports(3)
        url = f"https://127.0.0.1:{report_port}"
        self._settings = Settings(
            "trainer:1", url, tls_dir, report_port, webhook_port, self._health_port, "INFO"
        )
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(
                run(
                    self._settings,
                    self._stop,
                    patrol_seconds=PATROL_SECONDS,
                    tolerance_seconds=TOLERANCE_SECONDS,
                )
            )

    def start(self) -> None:
        self._thread.start()
        eventually(lambda: all(self._watches(what) for what in ("pods", "jobs", "finetunejobs")))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _watches(self, what: str) -> list[asyncio.Task[object]]:
        name = f"watcher for {what}."
        return [task for task in asyncio.all_tasks(self._loop) if task.get_name().startswith(name)]

    def kill_watch(self, what: str) -> None:
        """End the task that watches this, behind kopf's back."""
        [task] = self._watches(what)
        self._loop.call_soon_threadsafe(task.cancel)
        eventually(lambda: not self._watches(what))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def here(kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    write_certificate(tmp_path)
    here = Here(tmp_path)
    here.start()
    yield here
    here.stop()


def submitted(namespace: Namespace) -> None:
    namespace.submit(dataset=INLINE)
    namespace.in_phase("Starting")


def test_a_quiet_cluster_is_healthy(here: Here, namespace: Namespace) -> None:
    submitted(namespace)
    # What others do is none of the operator's business.
    namespace.create(
        PODS, {"metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    namespace.create(JOBS, BARE_JOB | {"metadata": {"name": "other"}})
    time.sleep(2 * TOLERANCE_SECONDS)
    assert here.get("/healthz") == (200, "ok\n")
    _, metrics = here.get("/metrics")
    for watch in ("finetunejobs", "jobs", "pods"):
        assert f'finetune_watch_last_event_age_seconds{{watch="{watch}"}}' in metrics


@pytest.mark.parametrize("what", ["pods", "jobs", "finetunejobs"])
def test_a_watch_that_has_stopped_turns_health_red(here: Here, namespace: Namespace, what: str) -> None:
    if what != "finetunejobs":
        submitted(namespace)
        pods = namespace.pods()
        assert here.get("/healthz")[0] == 200
    here.kill_watch(what)
    # Something happens that this watch would have told of.
    if what == "finetunejobs":
        submitted(namespace)
    elif what == "pods":
        namespace.run_pods(pods)
    else:
        namespace.patch(JOBS, "demo-1", {"metadata": {"annotations": {"a": "b"}}})
    eventually(lambda: here.get("/healthz")[0] == 503)
    assert f"the watch of {what} has stopped" in here.get("/healthz")[1]


def test_what_a_dead_watch_missed_is_done_all_the_same(here: Here, namespace: Namespace) -> None:
    here.kill_watch("finetunejobs")
    submitted(namespace)
    eventually(lambda: len(namespace.all(PODS)) == 2)
