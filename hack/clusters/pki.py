"""The certificates of one cluster, laid out as kubeadm lays them out: separate authorities for the cluster, for
etcd and for the front proxy (aggregated APIs), and one certificate per identity."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALIDITY = datetime.timedelta(days=365)
# Clocks of the machine's other programs may lag a little behind.
_BACKDATE = datetime.timedelta(minutes=5)

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Identity:
    """A certificate to be signed: `user` and `groups` are what RBAC sees, `hosts` what a client connects to."""

    name: str
    user: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyPair:
    """The files of one certificate and its private key."""

    certificate: Path
    key: Path


class Pki:
    """The folder of certificates of one cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def pair(self, name: str) -> KeyPair:
        """The files of the certificate `name`."""
        return KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")

    @property
    def cluster_ca(self) -> Path:
        """The authority behind the API server, the kubelet and every client of theirs."""
        return self.pair("ca").certificate

    @property
    def etcd_ca(self) -> Path:
        """The authority behind etcd and its one client, the API server."""
        return self.pair("etcd-ca").certificate

    @property
    def front_proxy_ca(self) -> Path:
        """The authority behind the API server's own certificate towards aggregated APIs."""
        return self.pair("front-proxy-ca").certificate

    def create(self, identities: Sequence[Identity], api_hosts: Sequence[str]) -> None:
        """Make all authorities, keys and certificates; if the folder is there already, only what clients lack.

        `identities` are clients, and for those with hosts also servers, of the cluster's authority; the API
        server's certificate is valid for `api_hosts`.
        """
        if self.directory.exists():
            self._add(identities)
            return
        partial = Pki(self.directory.with_suffix(".partial"))
        shutil.rmtree(partial.directory, ignore_errors=True)
        partial.directory.mkdir(mode=0o700, parents=True)
        cluster = _Authority.create(partial.pair("ca"), "kubernetes")
        # Not the name of the server: a certificate whose issuer has its subject's name is taken for self-signed.
        etcd = _Authority.create(partial.pair("etcd-ca"), "etcd-ca")
        front_proxy = _Authority.create(partial.pair("front-proxy-ca"), "front-proxy")
        cluster.issue(partial, Identity("apiserver", "kube-apiserver", hosts=tuple(api_hosts)))
        cluster.issue(partial, Identity("apiserver-kubelet-client", "kube-apiserver", ("system:masters",)))
        etcd.issue(partial, Identity("etcd-server", "etcd", hosts=("localhost", "127.0.0.1")))
        etcd.issue(partial, Identity("apiserver-etcd-client", "kube-apiserver"))
        front_proxy.issue(partial, Identity("front-proxy-client", "front-proxy-client"))
        for identity in identities:
            cluster.issue(partial, identity)
        _write_service_account_keys(partial.pair("sa"))
        # Renamed as a whole, so that an interrupted start never leaves half a set behind.
        partial.directory.rename(self.directory)

    def _add(self, identities: Sequence[Identity]) -> None:
        """A cluster that is older than one of its components can be repaired as any other."""
        missing = [identity for identity in identities if not self.pair(identity.name).key.exists()]
        if missing:
            cluster = _Authority.load(self.pair("ca"))
            for identity in missing:
                cluster.issue(self, identity)

    @property
    def service_account_keys(self) -> KeyPair:
        """The key that signs service-account tokens, and (as `certificate`) the public key that checks them."""
        return self.pair("sa")


def write_self_signed(files: KeyPair, hosts: Sequence[str]) -> None:
    """A server's certificate that is valid for `hosts`, and is itself the authority to check it against.

    With RSA, for programs that read no other key.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(files, certificate, key)


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, files: KeyPair, common_name: str) -> _Authority:
        key = _new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write_pair(files, certificate, key)
        return cls(certificate, key)

    @classmethod
    def load(cls, files: KeyPair) -> _Authority:
        key = load_pem_private_key(files.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(files.certificate.read_bytes()), key)

    def issue(self, pki: Pki, identity: Identity) -> None:
        key = _new_key()
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.user))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(x509.Name(names), self.certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if identity.hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            hosts = x509.SubjectAlternativeName([_general_name(host) for host in identity.hosts])
            builder = builder.add_extension(hosts, critical=False)
        certificate = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        _write_pair(pki.pair(identity.name), certificate.sign(self.key, hashes.SHA256()), key)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _VALIDITY)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(files: KeyPair, certificate: x509.Certificate, key: _PrivateKey) -> None:
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    _write_key(files.key, key)


def _write_service_account_keys(files: KeyPair) -> None:
    key = _new_key()
    files.certificate.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    _write_key(files.key, key)


def _write_key(file: Path, key: _PrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(pem)
