"""The Helm chart, rendered by Helm and judged by a real API server."""

import base64
import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from cluster.chart import CHART, IMAGES, Manifest, one, parsed
from clusters.binaries import ensure
from clusters.local import ControlPlane
from finetune_api import names
from finetune_operator.health import health_application
from finetune_operator.metrics import Metrics
from finetune_operator.settings import LOG_LEVELS, Settings
from finetune_operator.watch_health import WatchHealth

RELEASE = "finetune-operator"
NAMESPACE = "chart-test"
JOB = {
    "apiVersion": names.API_VERSION,
    "kind": names.KIND,
    "metadata": {"name": "precious"},
    "spec": {
        "method": "sft",
        "model": {"volume": {"claimName": "models", "path": "tiny"}},
        "dataset": {"train": {"volume": {"claimName": "data", "path": "train.jsonl"}}},
        "storage": {"claimName": "runs"},
        "resources": {"nodes": 1, "gpusPerNode": 0},
    },
}


class Tools:
    """Helm and kubectl, pointed at a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._programs = ensure(["helm", "kubectl"])
        self._plane = plane

    def run(
        self, program: str, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, however that is."""
        options = (f"--kubeconfig={self._plane.kubeconfig}", f"--namespace={NAMESPACE}")
        command = [str(self._programs[program]), *options, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl printed; a failure fails the test."""
        return succeeded(self.run("kubectl", *arguments, stdin=stdin))

    def get(self, *what: str) -> Manifest:
        """An object as the API server has it."""
        found: Manifest = json.loads(self.kubectl("get", *what, "--output=json"))
        return found

    def helm(self, command: str, *arguments: str, **values: Any) -> subprocess.CompletedProcess[str]:
        """A Helm command on the release and the chart, with names for the images, and with `values`."""
        stdin = json.dumps(IMAGES | values)
        return self.run("helm", command, RELEASE, str(CHART), "--values=-", *arguments, stdin=stdin)

    def template(self, **values: Any) -> str:
        """The chart as it would be installed first."""
        return succeeded(self.helm("template", "--kube-version=1.34", **values))


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    """What a program printed; a failure fails the test."""
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}{done.stderr}"
    return done.stdout


def pod_spec(manifests: list[Manifest]) -> Manifest:
    """What the Deployment's pod is to be like."""
    found: Manifest = one(manifests, "Deployment")["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def tools() -> Iterator[Tools]:
    """A control plane for this module alone: in a shared one, the CRD would not be Helm's to install."""
    with ControlPlane() as plane:
        made = Tools(plane)
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield made


@pytest.fixture(scope="module")
def manifests(tools: Tools) -> list[Manifest]:
    """The chart as it would be installed first."""
    return parsed(tools.template())


@pytest.fixture(scope="module")
def installed(tools: Tools) -> Tools:
    """With the chart installed."""
    succeeded(tools.helm("install"))
    return tools


def test_helm_finds_no_fault(tools: Tools) -> None:
    succeeded(tools.run("helm", "lint", "--strict", str(CHART), "--values=-", stdin=json.dumps(IMAGES)))


def test_the_api_server_accepts_every_field(tools: Tools) -> None:
    text = tools.template()
    said = tools.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"), stdin=text
    )
    assert len(said.splitlines()) == len(parsed(text)) == 8


def test_the_pod_is_admitted_under_the_restricted_standard(installed: Tools) -> None:
    selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
    installed.kubectl("wait", "--for=create", "pod", selector, "--timeout=30s")
    [pod] = installed.get("pods", selector)["items"]
    # The standard does not ask for it.
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_operator_understands_its_environment(manifests: list[Manifest], tmp_path: Path) -> None:
    secret, service = one(manifests, "Secret"), one(manifests, "Service")
    for file, content in secret["data"].items():
        (tmp_path / file).write_bytes(base64.b64decode(content))
    [operator] = pod_spec(manifests)["containers"]
    environment = {variable["name"]: variable["value"] for variable in operator["env"]}
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
    volumes = {volume["name"]: volume for volume in pod_spec(manifests)["volumes"]}
    tls = volumes[mounts[environment["FINETUNE_TLS_DIR"]]]
    assert tls["secret"]["secretName"] == secret["metadata"]["name"]


def test_probes_ask_what_the_operator_answers(manifests: list[Manifest]) -> None:
    application = health_application(WatchHealth(), Metrics())
    answered = {resource.canonical for resource in application.router.resources()}
    [operator] = pod_spec(manifests)["containers"]
    probes = [value["httpGet"] for key, value in operator.items() if key.endswith("Probe")]
    assert len(probes) == 2
    assert {probe["path"] for probe in probes} <= answered
    assert {probe["port"] for probe in probes} == {"health"}


def test_the_service_finds_the_pod(manifests: list[Manifest]) -> None:
    labels = one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(manifests, "Service")["spec"]["selector"].items() <= labels.items()


def test_no_rule_is_a_wildcard_or_reads_secrets(manifests: list[Manifest]) -> None:
    for rule in one(manifests, "ClusterRole")["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"]


ALLOWED = """
    get,list,watch finetunejobs.finetune.dev            patch finetunejobs.finetune.dev/status
    update finetunejobs.finetune.dev/finalizers         get,list,watch,create,patch,delete jobs.batch
    get,list,create,patch,delete configmaps             get,create,patch,delete services
    get,create,patch,delete networkpolicies.networking.k8s.io
    get,list,watch pods                                 create events
    create tokenreviews.authentication.k8s.io
"""
FORBIDDEN = """
    create,update,patch,delete finetunejobs.finetune.dev  watch,deletecollection configmaps  list services
    create,update,patch,delete pods                       create pods/exec         get,list,watch,create secrets
    list networkpolicies.networking.k8s.io                get nodes                create serviceaccounts/token
    create,escalate,bind clusterroles.rbac.authorization.k8s.io                    impersonate users
    update,patch customresourcedefinitions.apiextensions.k8s.io
"""


def rights(table: str) -> list[tuple[str, str]]:
    """Pairs of verb and resource."""
    words = table.split()
    return [
        (verb, what) for verbs, what in zip(words[::2], words[1::2], strict=True) for verb in verbs.split(",")
    ]


@pytest.mark.parametrize(("table", "answer"), [(ALLOWED, "yes"), (FORBIDDEN, "no")])
def test_the_service_account_may_do_what_it_must_and_no_more(
    installed: Tools, table: str, answer: str
) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    for verb, what in rights(table):
        resource, _, subresource = what.partition("/")
        question = (verb, resource, f"--subresource={subresource}", f"--as={account}", "--namespace=team-a")
        asked = installed.run("kubectl", "auth", "can-i", *question)
        assert asked.stdout.strip() == answer, f"{verb} {what}: {asked.stdout}{asked.stderr}"


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


def test_the_certificate_is_the_endpoint_s(manifests: list[Manifest]) -> None:
    data = one(manifests, "Secret")["data"]
    authority, leaf = (
        x509.load_pem_x509_certificate(base64.b64decode(data[file])) for file in ("ca.crt", "tls.crt")
    )
    host = x509.DNSName(f"{RELEASE}.{NAMESPACE}.svc")
    chain = PolicyBuilder().store(Store([authority])).build_server_verifier(host).verify(leaf, [])
    assert chain == [leaf, authority]
    names_of_leaf = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names_of_leaf) == [host]


def test_a_given_certificate_takes_the_place_of_a_made_one(tools: Tools) -> None:
    rendered = parsed(tools.template(tls={"existingSecret": "from-cert-manager"}, webhook={"enabled": False}))
    assert "Secret" not in [manifest["kind"] for manifest in rendered]
    [tls] = [volume for volume in pod_spec(rendered)["volumes"] if volume["name"] == "tls"]
    assert tls["secret"]["secretName"] == "from-cert-manager"


def client_of(manifests: list[Manifest]) -> Manifest:
    """How the API server reaches the webhook."""
    [webhook] = one(manifests, "ValidatingWebhookConfiguration")["webhooks"]
    found: Manifest = webhook["clientConfig"]
    return found


def test_the_webhook_asks_the_operator_and_trusts_its_authority(manifests: list[Manifest]) -> None:
    service, secret = one(manifests, "Service"), one(manifests, "Secret")
    client = client_of(manifests)
    assert client["caBundle"] == secret["data"]["ca.crt"]
    # The certificate is for this very name.
    assert client["service"]["name"] == service["metadata"]["name"] == RELEASE
    assert client["service"]["namespace"] == service["metadata"]["namespace"] == NAMESPACE
    [port] = [port for port in service["spec"]["ports"] if port["name"] == "webhook"]
    assert client["service"]["port"] == port["port"]


def test_the_authority_of_a_given_certificate_is_what_is_said_or_found(installed: Tools) -> None:
    given = {"tls": {"existingSecret": "theirs"}}
    pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
    said = client_of(parsed(installed.template(**given, webhook={"caBundle": pem})))
    assert base64.b64decode(said["caBundle"]).decode() == pem
    injected = parsed(
        installed.template(**given, webhook={"annotations": {"injector.example/from": "theirs"}})
    )
    assert "caBundle" not in client_of(injected)
    configuration = one(injected, "ValidatingWebhookConfiguration")
    assert configuration["metadata"]["annotations"] == {"injector.example/from": "theirs"}
    installed.kubectl("create", "secret", "generic", "theirs", f"--from-literal=ca.crt={pem}")
    # Not `template`: that asks no cluster.
    found = succeeded(installed.helm("upgrade", "--dry-run=server", "--output=json", **given))
    assert base64.b64encode(pem.encode()).decode() in json.loads(found)["manifest"]


def test_the_webhook_can_be_left_out(tools: Tools) -> None:
    rendered = parsed(tools.template(webhook={"enabled": False}))
    assert "ValidatingWebhookConfiguration" not in [manifest["kind"] for manifest in rendered]
    assert [port["name"] for port in one(rendered, "Service")["spec"]["ports"]] == ["report"]


def test_pull_secrets_reach_the_pod(tools: Tools) -> None:
    rendered = parsed(tools.template(imagePullSecrets=["registry"]))
    assert pod_spec(rendered)["imagePullSecrets"] == [{"name": "registry"}]


def test_a_mirror_of_the_hub_reaches_the_operator(tools: Tools) -> None:
    def told(**values: object) -> dict[str, str]:
        [operator] = pod_spec(parsed(tools.template(**values)))["containers"]
        variables = {variable["name"]: variable["value"] for variable in operator["env"]}
        return {name: value for name, value in variables.items() if name.startswith("FINETUNE_HUB_")}

    assert told() == {}
    assert told(huggingFace={"endpoint": "https://mirror.example", "offline": True}) == {
        "FINETUNE_HUB_ENDPOINT": "https://mirror.example",
        "FINETUNE_HUB_OFFLINE": "true",
    }


def test_the_crd_can_be_left_to_others(tools: Tools) -> None:
    rendered = parsed(tools.template(crds={"install": False}))
    assert "CustomResourceDefinition" not in [manifest["kind"] for manifest in rendered]


def test_an_upgrade_keeps_the_certificate(installed: Tools) -> None:
    before = installed.get("secret", f"{RELEASE}-tls")
    succeeded(installed.helm("upgrade", logLevel="DEBUG"))
    after = installed.get("secret", f"{RELEASE}-tls")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["data"] == before["data"]
    configuration = installed.get("validatingwebhookconfiguration", RELEASE)
    assert configuration["webhooks"][0]["clientConfig"]["caBundle"] == after["data"]["ca.crt"]
    [operator] = installed.get("deployment", RELEASE)["spec"]["template"]["spec"]["containers"]
    assert {"name": "FINETUNE_LOG_LEVEL", "value": "DEBUG"} in operator["env"]


def test_uninstalling_keeps_all_jobs_and_installing_again_takes_them_up(installed: Tools) -> None:
    installed.kubectl("apply", "--filename=-", stdin=json.dumps(JOB))
    before = installed.get("finetunejob", "precious")
    succeeded(installed.run("helm", "uninstall", RELEASE, "--wait"))
    left = "deployments,services,secrets,serviceaccounts,clusterroles,clusterrolebindings"
    left += ",validatingwebhookconfigurations"
    selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
    assert installed.get(left, selector)["items"] == []
    assert installed.get("finetunejob", "precious") == before
    succeeded(installed.helm("install"))
    assert installed.get("finetunejob", "precious") == before
