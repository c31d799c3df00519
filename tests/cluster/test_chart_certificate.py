"""Where the chart takes the operator's certificate from, and how the API server learns of its authority."""

import base64
import json

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from cluster.chart import RELEASE, Manifest, every, manifests, one, parsed
from cluster.helm import NAMESPACE, Tools, pod_spec, succeeded


def test_the_certificate_is_the_endpoint_s(defaults: list[Manifest]) -> None:
    data = one(defaults, "Secret")["data"]
    authority, leaf = (
        x509.load_pem_x509_certificate(base64.b64decode(data[file])) for file in ("ca.crt", "tls.crt")
    )
    host = x509.DNSName(f"{RELEASE}.{NAMESPACE}.svc")
    chain = PolicyBuilder().store(Store([authority])).build_server_verifier(host).verify(leaf, [])
    assert chain == [leaf, authority]
    names_of_leaf = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names_of_leaf) == [host]


def test_a_given_certificate_takes_the_place_of_a_made_one(tools: Tools) -> None:
    rendered = manifests(NAMESPACE, tls={"existingSecret": "from-cert-manager"}, webhook={"enabled": False})
    assert "Secret" not in [manifest["kind"] for manifest in rendered]
    [tls] = [volume for volume in pod_spec(rendered)["volumes"] if volume["name"] == "tls"]
    assert tls["secret"]["secretName"] == "from-cert-manager"


def client_of(manifests: list[Manifest]) -> Manifest:
    """How the API server reaches the webhook."""
    [webhook] = one(manifests, "ValidatingWebhookConfiguration")["webhooks"]
    found: Manifest = webhook["clientConfig"]
    return found


def test_the_webhook_asks_the_operator_and_trusts_its_authority(defaults: list[Manifest]) -> None:
    service, secret = one(defaults, "Service"), one(defaults, "Secret")
    client = client_of(defaults)
    assert client["caBundle"] == secret["data"]["ca.crt"]
    # The certificate is for this very name.
    assert client["service"]["name"] == service["metadata"]["name"] == RELEASE
    assert client["service"]["namespace"] == service["metadata"]["namespace"] == NAMESPACE
    [port] = [port for port in service["spec"]["ports"] if port["name"] == "webhook"]
    assert client["service"]["port"] == port["port"]


def test_the_authority_of_a_given_certificate_is_what_is_said_or_found(installed: Tools) -> None:
    given: Manifest = {"tls": {"existingSecret": "theirs"}}
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


# cert-manager


def test_cert_manager_makes_the_certificate_that_the_pod_has_and_the_api_server_trusts() -> None:
    given = manifests(NAMESPACE, tls={"certManager": {"enabled": True}})
    assert every(given, "Secret") == []
    certificate, authority = one(given, "Certificate"), one(given, "Certificate", f"{RELEASE}-ca")
    spec = certificate["spec"]
    [tls] = [volume for volume in pod_spec(given)["volumes"] if volume["name"] == "tls"]
    assert tls["secret"]["secretName"] == spec["secretName"] != f"{RELEASE}-tls"
    assert spec["dnsNames"] == [f"{RELEASE}.{NAMESPACE}.svc"]
    # Signed by an authority of the chart's own, which signs itself.
    issuer = one(given, "Issuer", spec["issuerRef"]["name"])
    assert issuer["spec"] == {"ca": {"secretName": authority["spec"]["secretName"]}}
    assert authority["spec"]["isCA"] is True
    assert authority["spec"]["privateKey"]["rotationPolicy"] == "Never"
    assert one(given, "Issuer", authority["spec"]["issuerRef"]["name"])["spec"] == {"selfSigned": {}}
    configuration = one(given, "ValidatingWebhookConfiguration")
    injected = {"cert-manager.io/inject-ca-from": f"{NAMESPACE}/{RELEASE}"}
    assert configuration["metadata"]["annotations"] == injected
    assert "caBundle" not in client_of(given)


def test_an_issuer_that_is_named_signs_instead() -> None:
    issuer = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    given = manifests(NAMESPACE, tls={"certManager": {"enabled": True, "issuerRef": issuer}})
    assert every(given, "Issuer") == []
    assert one(given, "Certificate")["spec"]["issuerRef"] == issuer
