"""Every certificate of a cluster is signed by the right authority, and holds what its owner needs."""

import base64
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from clusters import kubeconfig
from clusters.pki import Identity, Pki

KUBELET = Identity("kubelet", "system:node:one", ("system:nodes",), ("one", "10.88.8.1"))
ADMIN = Identity("admin", "kubernetes-admin", ("system:masters",))


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    pki = Pki(tmp_path / "pki")
    pki.create([KUBELET, ADMIN], ["localhost", "127.0.0.1", "kubernetes.default.svc"])
    return pki


def certificate(pki: Pki, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pki.pair(name).certificate.read_bytes())


def hosts(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = map(str, extension.get_values_for_type(x509.IPAddress))
    return {*extension.get_values_for_type(x509.DNSName), *addresses}


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("ca", "apiserver"),
        ("ca", "apiserver-kubelet-client"),
        ("ca", "kubelet"),
        ("ca", "admin"),
        ("etcd-ca", "etcd-server"),
        ("etcd-ca", "apiserver-etcd-client"),
        ("front-proxy-ca", "front-proxy-client"),
    ],
)
def test_who_signed_what(pki: Pki, authority: str, name: str) -> None:
    signed = certificate(pki, name)
    signed.verify_directly_issued_by(certificate(pki, authority))
    key = load_pem_private_key(pki.pair(name).key.read_bytes(), None)
    assert key.public_key() == signed.public_key()
    assert not signed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_server_is_valid_for_its_hosts_and_a_client_for_none(pki: Pki) -> None:
    assert hosts(certificate(pki, "apiserver")) == {"localhost", "127.0.0.1", "kubernetes.default.svc"}
    assert hosts(certificate(pki, "kubelet")) == {"one", "10.88.8.1"}
    admin = certificate(pki, "admin").extensions
    assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in {extension.oid for extension in admin}
    usage = admin.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_subjects_are_what_rbac_sees(pki: Pki) -> None:
    subject = certificate(pki, "kubelet").subject
    [user] = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    [group] = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert (user.value, group.value) == ("system:node:one", "system:nodes")


def test_service_account_keys_belong_together(pki: Pki) -> None:
    keys = pki.service_account_keys
    private = load_pem_private_key(keys.key.read_bytes(), None)
    assert private.public_key() == load_pem_public_key(keys.certificate.read_bytes())


def test_keys_are_for_their_owner_alone(pki: Pki) -> None:
    assert pki.directory.stat().st_mode & 0o777 == 0o700
    assert {key.stat().st_mode & 0o777 for key in pki.directory.glob("*.key")} == {0o600}


def test_a_second_call_keeps_everything(pki: Pki) -> None:
    before = {file: file.read_bytes() for file in pki.directory.iterdir()}
    pki.create([KUBELET], ["elsewhere"])
    assert {file: file.read_bytes() for file in pki.directory.iterdir()} == before


def test_a_client_that_came_later_is_signed_by_the_same_authority(pki: Pki) -> None:
    pki.create([KUBELET, Identity("later", "system:later")], [])
    certificate(pki, "later").verify_directly_issued_by(certificate(pki, "ca"))


def test_what_an_interrupted_call_left_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "pki.partial").mkdir()
    (tmp_path / "pki.partial" / "ca.key").write_text("half a key")
    pki = Pki(tmp_path / "pki")
    pki.create([], [])
    load_pem_private_key(pki.pair("ca").key.read_bytes(), None)


def test_a_kubeconfig_needs_no_other_file(pki: Pki, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    rendered = kubeconfig.render(
        cluster="dev",
        server="https://127.0.0.1:6443",
        ca=pki.cluster_ca,
        user=ADMIN.user,
        client=pki.pair(ADMIN.name),
    )
    kubeconfig.write(file, rendered)
    assert file.stat().st_mode & 0o777 == 0o600
    read = yaml.safe_load(file.read_text())
    assert read["current-context"] == read["contexts"][0]["name"] == "dev"
    assert read["contexts"][0]["context"] == {"cluster": "dev", "user": "kubernetes-admin"}
    assert "insecure-skip-tls-verify" not in file.read_text()
    assert str(pki.directory) not in file.read_text()
    [cluster], [user] = read["clusters"], read["users"]
    assert cluster["cluster"]["server"] == "https://127.0.0.1:6443"
    assert decoded(cluster["cluster"]["certificate-authority-data"]) == pki.cluster_ca.read_bytes()
    assert decoded(user["user"]["client-key-data"]) == pki.pair(ADMIN.name).key.read_bytes()


def decoded(text: str) -> bytes:
    return base64.b64decode(text)
