"""Where one local cluster's control plane listens and keeps its files, and the command lines that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clusters.pki import Identity, Pki
from clusters.ports import free_ports

SERVICE_CIDR = "10.96.0.0/16"
_FIRST_SERVICE_IP = "10.96.0.1"  # the API server's own Service, `kubernetes`
_LOOPBACK = "127.0.0.1"

CONTROLLER_MANAGER = Identity("controller-manager", "system:kube-controller-manager")
ADMIN = Identity("admin", "kubernetes-admin", groups=("system:masters",))


@dataclass(frozen=True)
class Layout:
    """The files and the addresses of one control plane.

    `address` is where the API server listens for others than this machine; a control plane without nodes has no
    others and stays on loopback.
    """

    directory: Path
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    controller_manager_port: int = 10257
    address: str = _LOOPBACK

    @classmethod
    def on_loopback(cls, directory: Path) -> Layout:
        """A control plane that shares the machine's loopback with others: every port is a free one."""
        api, etcd, etcd_peer, controller_manager = free_ports(4)
        return cls(directory, api, etcd, etcd_peer, controller_manager)

    @property
    def ports(self) -> dict[str, int]:
        """All ports, as the keyword arguments that make an equal layout."""
        return {
            "api_port": self.api_port,
            "etcd_port": self.etcd_port,
            "etcd_peer_port": self.etcd_peer_port,
            "controller_manager_port": self.controller_manager_port,
        }

    @property
    def pki(self) -> Pki:
        """The certificates."""
        return Pki(self.directory / "pki")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    def component_kubeconfig(self, identity: Identity) -> Path:
        """The kubeconfig with which the component `identity` talks to the API server."""
        return self.directory / f"{identity.name}.kubeconfig"

    @property
    def api_hosts(self) -> tuple[str, ...]:
        """Every name and address by which the API server may be called."""
        service = "kubernetes.default.svc"
        names = ("localhost", "kubernetes", "kubernetes.default", service, f"{service}.cluster.local")
        return (*names, _LOOPBACK, self.address, _FIRST_SERVICE_IP)

    def etcd(self, binary: Path) -> list[str | Path]:
        """etcd without fsync: a development cluster's data is not kept over a crash of the machine."""
        server = self.pki.pair("etcd-server")
        client_url = f"https://{_LOOPBACK}:{self.etcd_port}"
        peer_url = f"https://{_LOOPBACK}:{self.etcd_peer_port}"
        return [
            binary,
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            f"--cert-file={server.certificate}",
            f"--key-file={server.key}",
            f"--trusted-ca-file={self.pki.etcd_ca}",
            "--client-cert-auth",
            f"--peer-cert-file={server.certificate}",
            f"--peer-key-file={server.key}",
            f"--peer-trusted-ca-file={self.pki.etcd_ca}",
            "--peer-client-cert-auth",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def api_server(self, binary: Path) -> list[str | Path]:
        """The API server, with everything a real one has: RBAC, admission, aggregation, kubelet access."""
        pki = self.pki
        serving, etcd = pki.pair("apiserver"), pki.pair("apiserver-etcd-client")
        kubelet, front_proxy = pki.pair("apiserver-kubelet-client"), pki.pair("front-proxy-client")
        return [
            binary,
            f"--etcd-servers=https://{_LOOPBACK}:{self.etcd_port}",
            f"--etcd-cafile={pki.etcd_ca}",
            f"--etcd-certfile={etcd.certificate}",
            f"--etcd-keyfile={etcd.key}",
            f"--secure-port={self.api_port}",
            f"--bind-address={_LOOPBACK if self.address == _LOOPBACK else '0.0.0.0'}",
            f"--advertise-address={self.address}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={pki.cluster_ca}",
            f"--requestheader-client-ca-file={pki.front_proxy_ca}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={front_proxy.certificate}",
            f"--proxy-client-key-file={front_proxy.key}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            f"--kubelet-certificate-authority={pki.cluster_ca}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki.service_account_keys.certificate}",
            f"--service-account-signing-key-file={pki.service_account_keys.key}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Endpoints of the `kubernetes` Service may not be loopback addresses: without another there are none.
            *(["--endpoint-reconciler-type=none"] if self.address == _LOOPBACK else []),
        ]

    def controller_manager(self, binary: Path) -> list[str | Path]:
        """The controllers, each with its own service account."""
        kubeconfig, authority = self.component_kubeconfig(CONTROLLER_MANAGER), self.pki.pair("ca")
        return [
            binary,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={_LOOPBACK}",
            f"--secure-port={self.controller_manager_port}",
            f"--client-ca-file={self.pki.cluster_ca}",
            f"--requestheader-client-ca-file={self.pki.front_proxy_ca}",
            f"--root-ca-file={self.pki.cluster_ca}",
            f"--cluster-signing-cert-file={authority.certificate}",
            f"--cluster-signing-key-file={authority.key}",
            f"--service-account-private-key-file={self.pki.service_account_keys.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
        ]
