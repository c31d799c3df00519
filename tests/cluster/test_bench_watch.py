"""What the benchmarks hear of a cluster goes on when the API server closes their watch."""

import time

import pytest
from kubernetes import client, config

from benchmarks import watching
from cluster.kube import Kube, Namespace


def test_nothing_is_missed_when_the_watch_is_closed(
    kube: Kube, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The API server ends a watch when this has passed.
    monkeypatch.setattr(watching, "_WATCH_SECONDS", 1)
    api = client.CoreV1Api(config.new_client_from_config(str(kube.kubeconfig)))  # type: ignore[no-untyped-call]
    heard: list[str] = []
    told = [f"told-{at}" for at in range(12)]

    def listen(type_: str, wire: watching.Wire, when: float) -> None:
        if type_ == "ADDED" and wire["metadata"]["name"] in told:
            heard.append(wire["metadata"]["name"])

    path = f"/api/v1/namespaces/{namespace.name}/configmaps"
    with watching.Watch(kube.kubeconfig, path, listen) as watch:
        for name in told:
            api.create_namespaced_config_map(
                namespace.name, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name))
            )
            time.sleep(0.3)
        until = time.monotonic() + 10
        while len(heard) < len(told) and time.monotonic() < until:
            watch.check()
            time.sleep(0.05)
    assert heard == told
    assert "the API server closed the watch" in capsys.readouterr().out
