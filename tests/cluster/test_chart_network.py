"""Who the chart lets reach the operator's pod; tests/e2e/test_network.py has pods try it."""

from typing import Any

from cluster.chart import Manifest, every, manifests, one

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


def test_the_policy_can_be_left_out() -> None:
    assert not every(manifests(networkPolicy={"enabled": False}), "NetworkPolicy")
