"""Who the chart lets reach the operator's pod; tests/e2e/test_network.py has pods try it."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.chart import Manifest, every, manifests, notes, one
from cluster.kube import Kube, eventually

TRAINING_PODS = [
    {
        "namespaceSelector": {},
        "podSelector": {"matchExpressions": [{"key": "finetune.dev/job", "operator": "Exists"}]},
    }
]
EVERYBODY = None


def policy(rendered: list[Manifest]) -> dict[int, Any]:
    """By port, who is let in."""
    [container] = one(rendered, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    spec = one(rendered, "NetworkPolicy")["spec"]
    template = one(rendered, "Deployment")["spec"]["template"]
    assert spec["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert spec["policyTypes"] == ["Ingress"]
    return {
        ports[port["port"]]: rule.get("from", EVERYBODY) for rule in spec["ingress"] for port in rule["ports"]
    }


def test_pods_of_jobs_report_and_everybody_may_ask_the_webhook() -> None:
    assert policy(manifests()) == {8443: TRAINING_PODS, 9443: EVERYBODY}


def test_without_a_webhook_its_port_is_closed() -> None:
    assert policy(manifests(webhook={"enabled": False})) == {8443: TRAINING_PODS}


def test_metrics_are_for_those_who_are_named() -> None:
    monitoring = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert policy(manifests(networkPolicy={"metricsFrom": monitoring})) == {
        8443: TRAINING_PODS,
        9443: EVERYBODY,
        8080: monitoring,
    }


@pytest.fixture
def monitored_kube(kube: Kube) -> Iterator[Kube]:
    """An API server that knows ServiceMonitors, without what it takes to be one."""
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    names = {"kind": "ServiceMonitor", "plural": "servicemonitors"}
    group = "monitoring.coreos.com"
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    kube.request("POST", crds, {"metadata": {"name": f"servicemonitors.{group}"}, "spec": spec})
    eventually(lambda: kube.request("GET", f"/apis/{group}/v1/servicemonitors"))
    yield kube
    kube.request("DELETE", f"{crds}/servicemonitors.{group}")


def test_a_monitor_that_would_be_shut_out_is_told_of(monitored_kube: Kube) -> None:
    kube = monitored_kube
    monitored = {"metrics": {"serviceMonitor": {"enabled": True}}}
    shut_out = "Prometheus is shut out: name it in networkPolicy.metricsFrom"
    assert shut_out in notes(kube, **monitored)
    assert shut_out not in notes(kube)
    assert shut_out not in notes(kube, **monitored, networkPolicy={"metricsFrom": [{"podSelector": {}}]})
    assert shut_out not in notes(kube, **monitored, networkPolicy={"enabled": False})


def test_the_policy_can_be_left_out() -> None:
    assert not every(manifests(networkPolicy={"enabled": False}), "NetworkPolicy")
