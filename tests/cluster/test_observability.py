"""Metrics, alerts and the dashboard, as a real Prometheus server sees a real operator with jobs in several phases."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.chart import CHART, manifests, one
from cluster.kube import Kube, Namespace, eventually
from cluster.operators import Operator
from cluster.prometheus import ALERTS, Prometheus, prometheus, promtool
from finetune_api.evaluation import VALIDATION
from finetune_api.report import Failure, Metrics, Report, Stage
from finetune_api.scores import Evaluated, EvaluationStatus, SetScore
from world import INLINE, OUTPUT, checkpoint, report

DASHBOARD = CHART / "dashboards" / "finetune.json"
ALERT_TESTS = Path(__file__).parent / "alerts.test.yaml"
GANG: dict[str, Any] = {"resources": {"nodes": 2, "gpusPerNode": 4}, "dataset": INLINE}
# What a job that trains is called here; the dashboard shows it.
SHOWN = "demo"


def trains(step: int, attempt: int = 1, **fields: Any) -> Report:
    """A Report with everything that a trainer on GPUs measures."""
    metrics = Metrics(
        step=step,
        epoch=step / 18,
        loss=2.0 - step / 100,
        learning_rate=5e-6,
        grad_norm=0.8,
        tokens_per_second=12000,
        samples_seen=step * 6,
        peak_memory=60 << 30,
        mfu=0.41,
    )
    judged = Evaluated(
        step=step,
        time=datetime.now(UTC),
        sets=[SetScore(name=VALIDATION, loss=2.1, tokens=10)],
    )
    told = {
        "metrics": metrics,
        "evaluation": EvaluationStatus(validation_loss=2.1, baseline=judged, latest=judged),
        "checkpoints": [checkpoint(5, "resume")],
        "seconds_remaining": 600,
    }
    return report(attempt, step, None, **(told | fields))


@dataclass(frozen=True)
class Scene:
    """Jobs in several phases, and the server that has seen how they got there."""

    prometheus: Prometheus
    operator: Operator
    namespace: Namespace

    def post(self, told: Report, pods: list[str], name: str = SHOWN) -> None:
        """POST as rank 0."""
        token = self.namespace.token(pods[0])
        code, answer = self.operator.post(self.namespace.name, name, told, token=token)
        assert code == 200, answer

    def starts(self, name: str = SHOWN, attempt: int = 1) -> list[str]:
        """The pods of an attempt, which run now."""
        pods = self.namespace.pods(name, attempt=attempt)
        self.namespace.run_pods(pods)
        return pods


@pytest.fixture(scope="module")
def scene(kube: Kube, operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    target = f"127.0.0.1:{operator.health_port}"
    directory = tmp_path_factory.mktemp("prometheus")
    with prometheus(directory, target) as server, kube.namespace() as namespace:
        scene = Scene(server, operator, namespace)
        for name in (SHOWN, "done", "broken"):
            namespace.submit(name, **GANG)
        namespace.submit("waits", **GANG, scheduling={"queueName": "team"})
        first = scene.starts()
        scene.post(trains(10), first)
        namespace.in_phase("Running")

        pods = scene.starts("done")
        namespace.end_pod(pods[1], 0)
        last = trains(36, stage=Stage.FINISHED, output=OUTPUT)
        namespace.end_pod(pods[0], 0, last.to_termination_message())
        pods = scene.starts("broken")
        fault = Failure(exit_code=65, reason="InvalidData", message="no such file")
        refusal = report(step=None, stage=Stage.FAILED, failure=fault)
        namespace.end_pod(pods[0], 65, refusal.to_termination_message())
        namespace.in_phase("Succeeded", "done")
        namespace.in_phase("Failed", "broken")
        namespace.in_phase("Queued", "waits")
        # Somebody who is no trainer.
        assert operator.post(namespace.name, SHOWN, trains(11), token="nobody")[0] == 401

        # Five of ten steps are done again.
        namespace.end_pod(first[0], 1)
        namespace.end_pod(first[1], 1)
        second = scene.starts(attempt=2)
        scene.post(trains(6, attempt=2, resumed_from_step=5), second)
        eventually(lambda: namespace.status()["attempts"][-1].get("resumedFromStep") == 5)
        scene.post(trains(7, attempt=2, resumed_from_step=5), second)
        yield scene


def queries() -> list[str]:
    """Every query of the dashboard, those of its variables included."""
    dashboard = json.loads(DASHBOARD.read_text())
    variables = [variable["query"] for variable in dashboard["templating"]["list"]]
    asked = [variable["query"] for variable in variables if isinstance(variable, dict)]
    selectors = [re.fullmatch(r"label_values\((.+), \w+\)", query) for query in asked]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return found + [selector[1] for selector in selectors if selector]


def expressions() -> dict[str, str]:
    """The alerts' expressions by their names."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def names_in(expression: str) -> set[str]:
    """The names of metrics in an expression."""
    return set(re.findall(r"\b(?:finetune|process)_\w+", expression))


@pytest.mark.parametrize("query", queries())
def test_every_query_of_the_dashboard_yields_data(scene: Scene, query: str) -> None:
    shown = {
        "$namespace": scene.namespace.name,
        "$name": SHOWN,
        "$__rate_interval": "2m",
        "$__range": "1h",
    }
    # The longer ones first: $name is the beginning of $namespace.
    for variable, value in sorted(shown.items(), reverse=True):
        query = query.replace(variable, value)

    def yields() -> bool:
        return any(math.isfinite(float(sample["value"][1])) for sample in scene.prometheus.query(query))

    assert eventually(yields), query


def test_the_alerts_are_evaluated_without_an_error(scene: Scene) -> None:
    def evaluated() -> list[dict[str, Any]]:
        groups = scene.prometheus.ask("rules", type="alert")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert all(rule["health"] != "unknown" for rule in rules)
        return rules

    rules = eventually(evaluated)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules} == dict.fromkeys(expressions(), "")


def test_a_failed_job_raises_an_alert_and_no_other_does(scene: Scene) -> None:
    def raised() -> set[tuple[str, str]]:
        alerts = scene.prometheus.ask("alerts")["alerts"]
        ours = [alert["labels"] for alert in alerts if alert["state"] == "firing"]
        return {(labels["alertname"], labels["name"]) for labels in ours if "name" in labels}

    eventually(lambda: ("FineTuneJobFailed", "broken") in raised())
    assert not [name for alert, name in raised() if name == SHOWN]


def test_every_metric_that_is_asked_for_is_there(scene: Scene) -> None:
    told = set(scene.prometheus.ask("label/__name__/values"))
    for expression in [*queries(), *expressions().values()]:
        assert names_in(expression) <= told, expression


def test_what_a_restart_costs_is_counted(scene: Scene) -> None:
    job = f'{{namespace="{scene.namespace.name}", name="{SHOWN}"}}'

    def of(metric: str) -> float:
        [sample] = scene.prometheus.query(metric + job)
        return float(sample["value"][1])

    eventually(lambda: of("finetune_job_wasted_gpu_seconds") > 0)
    first, second = scene.namespace.status()["attempts"]
    seconds = [datetime.fromisoformat(first[field]) for field in ("startTime", "endTime")]
    # 8 GPUs, and half of what was done.
    expected = 8 * (seconds[1] - seconds[0]).total_seconds() / 2
    assert second["resumedFromStep"] == 5
    assert of("finetune_job_wasted_gpu_seconds") == pytest.approx(expected)
    assert of("finetune_job_gpu_seconds") > 2 * expected
    assert of("finetune_job_restarts") == 1


def test_requests_are_counted_by_the_answer(scene: Scene) -> None:
    counted = scene.prometheus.query("sum by (verb, resource, code) (finetune_api_requests_total)")
    found = {(of["verb"], of["resource"], of["code"]) for of in (sample["metric"] for sample in counted)}
    assert found >= {
        ("get", "finetunejobs", "200"),
        ("patch", "finetunejobs", "200"),
        ("patch", "jobs", "201"),
        ("post", "tokenreviews", "201"),
        # A name that is free.
        ("get", "services", "404"),
    }


def test_a_job_takes_its_series_with_it(scene: Scene) -> None:
    def series() -> list[str]:
        text = scene.operator.get("/metrics")[1]
        return [
            line
            for line in text.splitlines()
            if f'namespace="{scene.namespace.name}"' in line and '"gone"' in line
        ]

    scene.namespace.submit("gone", **GANG)
    eventually(series)
    scene.namespace.delete("/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs", "gone")
    eventually(lambda: not series())


def test_the_log_is_json_and_tells_the_same_story_as_the_events(scene: Scene) -> None:
    def told() -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in scene.operator.log.read_text().splitlines()]
        ours = [line for line in lines if line.get("namespace") == scene.namespace.name]
        story = [line for line in ours if line.get("job") == SHOWN and "event" in line]
        assert {line.get("attempt") for line in story} >= {1, 2}
        assert all(line["level"] in ("info", "warning") for line in ours)
        return [(line["event"], line["message"]) for line in story]

    eventually(lambda: told() == scene.namespace.told(SHOWN))


def test_a_report_that_is_refused_is_logged_with_the_pod_it_is_of(scene: Scene) -> None:
    [pod, _] = scene.namespace.pods(attempt=2)
    token = scene.namespace.token(pod)
    assert scene.operator.post(scene.namespace.name, SHOWN, trains(8, attempt=1), token=token)[0] == 403
    lines = [json.loads(line) for line in scene.operator.log.read_text().splitlines()]
    [line] = [line for line in lines if line.get("pod") == pod and "refused with 403" in line["message"]]
    assert (line["namespace"], line["job"], line["attempt"]) == (scene.namespace.name, SHOWN, 2)


def test_promtool_finds_no_fault_with_the_metrics(scene: Scene) -> None:
    assert not promtool("check", "metrics", stdin=scene.operator.get("/metrics")[1])


def test_promtool_finds_no_fault_with_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def test_every_alert_fires_when_it_should_and_not_when_it_should_not() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(ALERT_TESTS))
    groups = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    asked = [test for group in groups for test in group["promql_expr_test"]]
    fires, silent = (
        {
            re.findall(r'alertname="(\w+)"', test["expr"])[0]
            for test in asked
            if bool(test["exp_samples"]) is fired
        }
        for fired in (True, False)
    )
    assert fires == silent == set(expressions())


def test_the_chart_installs_them_by_values() -> None:
    metrics = {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    }
    found = manifests(metrics=metrics)
    monitor, rule = one(found, "ServiceMonitor"), one(found, "PrometheusRule")
    service = one(found, "Service")
    assert monitor["metadata"]["labels"].items() >= {"release": "prometheus"}.items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert rule["metadata"]["labels"].items() >= {"release": "prometheus"}.items()
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    dashboard = one(found, "ConfigMap", "finetune-operator-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["finetune.json"]) == json.loads(DASHBOARD.read_text())
    kinds = {manifest["kind"] for manifest in manifests()}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}


def test_the_label_of_the_dashboard_may_be_taken_away() -> None:
    values = {"dashboard": {"enabled": True, "labels": {"grafana_dashboard": None}}}
    dashboard = one(manifests(metrics=values), "ConfigMap", "finetune-operator-dashboard")
    assert "grafana_dashboard" not in dashboard["metadata"]["labels"]
