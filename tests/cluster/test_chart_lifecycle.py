"""Upgrading the chart, uninstalling it and installing it again: jobs train on, and none is ever lost."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.chart import CHART, RELEASE, Manifest
from cluster.helm import Tools, succeeded
from cluster.kube import FINETUNEJOBS, JOBS, PODS, Kube, Namespace, eventually
from cluster.operators import Operator
from world import OUTPUT, report


@pytest.fixture
def old_chart(tmp_path: Path) -> Path:
    """The chart as it may have been: its CRD knows no queues."""
    chart = tmp_path / "old"
    shutil.copytree(CHART, chart)
    file = chart / "files" / "crd.yaml"
    crd = yaml.safe_load(file.read_text())
    del schema(crd)["properties"]["status"]["properties"]["queue"]
    # With a line between the keys, by which the template finds where to put an annotation.
    parts = [yaml.safe_dump({key: value}, sort_keys=False) for key, value in crd.items()]
    file.write_text("".join(parts))
    return chart


def schema(crd: Manifest) -> Manifest:
    found: Manifest = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


@pytest.fixture
def namespace(tools: Tools) -> Iterator[Namespace]:
    """Where somebody trains; not the operator's namespace."""
    with Kube(tools.kubeconfig).namespace() as made:
        yield made


@pytest.fixture
def fresh(tools: Tools) -> Iterator[Tools]:
    """Without a release, neither before nor after."""
    yield tools
    tools.run("helm", "uninstall", RELEASE, "--ignore-not-found", "--wait")


def test_an_upgrade_brings_the_crd_up_to_date_and_keeps_all_jobs(
    fresh: Tools, namespace: Namespace, old_chart: Path
) -> None:
    succeeded(fresh.helm("install", "--take-ownership", chart=old_chart))
    job = namespace.submit("precious")
    crd = "customresourcedefinition/finetunejobs.finetune.dev"
    old = fresh.get(crd)
    assert "queue" not in schema(old)["properties"]["status"]["properties"]
    succeeded(fresh.helm("upgrade"))
    new = fresh.get(crd)
    assert "queue" in schema(new)["properties"]["status"]["properties"]
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    kept = namespace.job("precious")
    assert (kept["metadata"]["uid"], kept["spec"]) == (job["metadata"]["uid"], job["spec"])


def everything(namespace: Namespace) -> dict[str, str]:
    """The uid of all that trains, and of what it is trained for."""
    return {
        f"{template.rsplit('/', 1)[1]}/{found['metadata']['name']}": found["metadata"]["uid"]
        for template in (FINETUNEJOBS, JOBS, PODS)
        for found in namespace.all(template)
    }


def test_a_job_trains_on_through_upgrade_uninstallation_and_installation(
    fresh: Tools, namespace: Namespace, tmp_path: Path
) -> None:
    operator = Operator(fresh.kubeconfig, tmp_path)

    def told(sequence: int, step: int) -> None:
        answer = operator.post(
            namespace.name, "demo", report(1, sequence, step=step), token=namespace.token(pods[0])
        )
        assert answer[0] == 200, answer

    def replaced() -> None:
        """Recreated, as the Deployment's strategy has it; the new one has another image for what starts later."""
        assert operator.stop() == 0
        operator.environment["FINETUNE_TRAINER_IMAGE"] += "0"
        operator.start()

    succeeded(fresh.helm("install", "--take-ownership"))
    operator.start()
    try:
        namespace.begin()
        pods = namespace.pods()
        namespace.run_pods(pods)
        told(1, step=4)
        namespace.in_phase("Running")
        before = everything(namespace)
        assert len(before) >= 4

        succeeded(fresh.helm("upgrade", logLevel="DEBUG"))
        replaced()
        told(2, step=8)
        eventually(lambda: namespace.status()["progress"]["step"] == 8)
        assert everything(namespace) == before

        succeeded(fresh.run("helm", "uninstall", RELEASE, "--wait"))
        assert operator.stop() == 0
        assert everything(namespace) == before

        succeeded(fresh.helm("install"))
        operator.start()
        told(3, step=12)
        eventually(lambda: namespace.status()["progress"]["step"] == 12)
        assert everything(namespace) == before
        namespace.end_pod(pods[0], 0, report(1, 9, step=36, output=OUTPUT).to_termination_message())
        namespace.end_pod(pods[1], 0)
        assert len(namespace.in_phase("Succeeded")["attempts"]) == 1
    finally:
        operator.stop()


def test_uninstalling_leaves_nothing_but_the_jobs_and_their_kind(fresh: Tools, namespace: Namespace) -> None:
    succeeded(fresh.helm("install", "--take-ownership"))
    before = namespace.submit("precious")
    succeeded(fresh.run("helm", "uninstall", RELEASE, "--wait"))
    kinds = fresh.kubectl("api-resources", "--verbs=list", "--output=name").split()
    selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
    left = fresh.get(",".join(kinds), "--all-namespaces", selector)["items"]
    assert [found["kind"] for found in left] == []
    assert namespace.job("precious") == before
