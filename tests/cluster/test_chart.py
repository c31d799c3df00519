"""The Helm chart, rendered by Helm and judged by a real API server."""

import base64
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from cluster.chart import CHART, IMAGES, RELEASE, Manifest, manifests, one, parsed
from cluster.helm import NAMESPACE, Tools, pod_spec, succeeded
from finetune_operator.monitoring.health import health_application
from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.monitoring.watch_health import WatchHealth
from finetune_operator.settings import LOG_LEVELS, Settings


def variables(container: Manifest) -> dict[str, str]:
    """The environment of a container."""
    return {variable["name"]: variable["value"] for variable in container["env"]}


def test_helm_finds_no_fault(tools: Tools) -> None:
    succeeded(tools.run("helm", "lint", "--strict", str(CHART), "--values=-", stdin=json.dumps(IMAGES)))


def test_the_api_server_accepts_every_field(tools: Tools) -> None:
    text = tools.template()
    said = tools.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"), stdin=text
    )
    assert len(said.splitlines()) == len(parsed(text))


def test_the_pod_is_admitted_under_the_restricted_standard(installed: Tools) -> None:
    selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
    installed.kubectl("wait", "--for=create", "pod", selector, "--timeout=30s")
    [pod] = installed.get("pods", selector)["items"]
    # The standard does not ask for it.
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_operator_understands_its_environment(defaults: list[Manifest], tmp_path: Path) -> None:
    secret, service = one(defaults, "Secret"), one(defaults, "Service")
    for file, content in secret["data"].items():
        (tmp_path / file).write_bytes(base64.b64decode(content))
    [operator] = pod_spec(defaults)["containers"]
    environment = variables(operator)
    settings = Settings.from_environment(environment | {"FINETUNE_TLS_DIR": str(tmp_path)})

    assert operator["image"] == "registry.example:5000/team/operator:1"
    assert settings.trainer_image == "registry.example:5000/team/trainer:2"
    ports = {port["name"]: port["containerPort"] for port in operator["ports"]}
    assert ports == {
        "report": settings.report_port,
        "webhook": settings.webhook_port,
        "health": settings.health_port,
    }
    report, *_ = service["spec"]["ports"]
    assert settings.report_url == f"https://{service['metadata']['name']}.{NAMESPACE}.svc:{report['port']}"
    assert {port["name"]: port["targetPort"] for port in service["spec"]["ports"]} == {
        "report": "report",
        "webhook": "webhook",
        "metrics": "health",
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in operator["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(defaults)["volumes"]}
    tls = volumes[mounts[environment["FINETUNE_TLS_DIR"]]]
    assert tls["secret"]["secretName"] == secret["metadata"]["name"]


def test_probes_ask_what_the_operator_answers(defaults: list[Manifest]) -> None:
    application = health_application(WatchHealth(), Metrics())
    answered = {resource.canonical for resource in application.router.resources()}
    [operator] = pod_spec(defaults)["containers"]
    probes = [value["httpGet"] for key, value in operator.items() if key.endswith("Probe")]
    assert len(probes) == 3
    assert {probe["path"] for probe in probes} <= answered
    assert {probe["port"] for probe in probes} == {"health"}


def test_the_service_finds_the_pod(defaults: list[Manifest]) -> None:
    labels = one(defaults, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(defaults, "Service")["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"logLevel": "LOUD"}, "/logLevel"),
        ({"crds": {"install": "yes"}}, "/crds/install"),
        ({"huggingFace": {"endpoint": "mirror.example"}}, "/huggingFace/endpoint"),
        ({"huggingFace": {"offline": "yes"}}, "/huggingFace/offline"),
        ({"image": {"repository": "team/operator:1"}}, "/image/repository"),
        ({"image": {"repository": "team/operator", "tag": 20261125}}, "/image/tag"),
        ({"trainer": {"picture": {}}}, "'picture' not allowed"),
        ({"resources": {"limit": {}}}, "'limit' not allowed"),
        ({"webhook": {"caBundle": "LS0tLS1CRUdJTg=="}}, "/webhook/caBundle"),
        ({"tls": {"existingSecret": "theirs"}}, "give webhook.caBundle or webhook.annotations"),
        ({"replicas": 2}, "'replicas' not allowed"),
        ({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0"),
        ({"image": {"repository": "team/operator", "digest": "latest"}}, "/image/digest"),
        ({"trainer": {"imagePullSecrets": ["my registry"]}}, "/trainer/imagePullSecrets/0"),
        ({"podLabels": {"app.kubernetes.io/name": "mine"}}, "/podLabels"),
        ({"tls": {"certManager": {"enabled": True, "duration": "90 days"}}}, "/tls/certManager/duration"),
        (
            {"tls": {"certManager": {"enabled": True}, "existingSecret": "theirs"}},
            "tls.existingSecret and tls.certManager.enabled each name a certificate",
        ),
        (
            {"image": {"repository": ""}},
            "image.repository is required: where you pushed the operator's image",
        ),
    ],
)
def test_wrong_values_are_refused_by_name(tools: Tools, values: Manifest, complaint: str) -> None:
    refused = tools.helm("template", "--kube-version=1.34", **values)
    assert refused.returncode != 0
    assert complaint in refused.stderr


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_log_levels_are_the_operator_s_own() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["logLevel"]["enum"] == list(LOG_LEVELS)


def test_the_webhook_can_be_left_out(tools: Tools) -> None:
    rendered = manifests(NAMESPACE, webhook={"enabled": False})
    assert "ValidatingWebhookConfiguration" not in [manifest["kind"] for manifest in rendered]
    assert [port["name"] for port in one(rendered, "Service")["spec"]["ports"]] == ["report", "metrics"]


def test_pull_secrets_reach_the_pod(tools: Tools) -> None:
    rendered = manifests(NAMESPACE, imagePullSecrets=["registry"])
    assert pod_spec(rendered)["imagePullSecrets"] == [{"name": "registry"}]


def test_a_mirror_of_the_hub_reaches_the_operator(tools: Tools) -> None:
    def told(**values: object) -> dict[str, str]:
        [operator] = pod_spec(manifests(NAMESPACE, **values))["containers"]
        return {
            name: value for name, value in variables(operator).items() if name.startswith("FINETUNE_HUB_")
        }

    assert told() == {}
    assert told(huggingFace={"endpoint": "https://mirror.example", "offline": True}) == {
        "FINETUNE_HUB_ENDPOINT": "https://mirror.example",
        "FINETUNE_HUB_OFFLINE": "true",
    }


def test_the_crd_can_be_left_to_others(tools: Tools) -> None:
    rendered = manifests(NAMESPACE, crds={"install": False})
    assert "CustomResourceDefinition" not in [manifest["kind"] for manifest in rendered]


def test_a_digest_takes_the_place_of_a_tag() -> None:
    digest = f"sha256:{'0' * 64}"
    images = {
        "image": {"repository": "registry.example/operator", "tag": "1", "digest": digest},
        "trainer": {"image": {"repository": "registry.example/trainer", "digest": digest}},
    }
    [operator] = pod_spec(manifests(NAMESPACE, **images))["containers"]
    assert operator["image"] == f"registry.example/operator@{digest}"
    assert variables(operator)["FINETUNE_TRAINER_IMAGE"] == f"registry.example/trainer@{digest}"


def test_what_is_for_the_operator_to_know_reaches_it(tmp_path: Path) -> None:
    trainer = {"image": IMAGES["trainer"]["image"], "imagePullSecrets": ["registry", "mirror"]}
    given = manifests(NAMESPACE, watchNamespaces=["team-a", "1"], trainer=trainer)
    [operator] = pod_spec(given)["containers"]
    for file in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / file).touch()
    settings = Settings.from_environment(variables(operator) | {"FINETUNE_TLS_DIR": str(tmp_path)})
    assert settings.namespaces == ("team-a", "1")
    assert settings.pull_secrets == ("registry", "mirror")


def test_whoever_installs_it_says_where_its_pod_runs(tools: Tools) -> None:
    placed: Manifest = {
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    about: Manifest = {"podLabels": {"team": "ml"}, "podAnnotations": {"example.com/scrape": "true"}}
    deployment = one(manifests(NAMESPACE, **placed, **about), "Deployment")
    deployment["metadata"]["name"] = "placed"
    options = ("--dry-run=server", "--validate=strict", "--filename=-")
    tools.kubectl("create", *options, stdin=json.dumps(deployment))
    template = deployment["spec"]["template"]
    assert template["spec"].items() >= placed.items()
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"] == about["podAnnotations"]
