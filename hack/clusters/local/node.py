"""The node of a local cluster: scheduler, kubelet, kube-proxy, DNS and NetworkPolicies, and how each is configured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusters.local import network_policies
from clusters.local.containerd import POD_CIDR
from clusters.local.isolation import NODE_IP, Isolation
from clusters.local.layout import Layout
from clusters.local.network_policies import NetworkPolicies
from clusters.local.rights import read_rights
from clusters.paths import write_if_changed
from clusters.pki import Identity

DNS_IP = "10.96.0.10"
_DNS_READY_PORT = 8181
# Where the node's own parts say whether they work; to be asked from inside.
HEALTH_URLS = (f"http://{NODE_IP}:{_DNS_READY_PORT}/ready", "http://127.0.0.1:10256/healthz")
SCHEDULER = Identity("scheduler", "system:kube-scheduler")
KUBE_PROXY = Identity("kube-proxy", "system:kube-proxy")
COREDNS = Identity("coredns", "system:coredns")
_COREDNS_READS = {"": ["services", "pods", "namespaces"], "discovery.k8s.io": ["endpointslices"]}


@dataclass(frozen=True)
class Node:
    """The one node of the cluster that has this control plane and lives in this isolation."""

    layout: Layout
    isolation: Isolation

    @property
    def name(self) -> str:
        """The name by which the API knows it."""
        return f"{self.isolation.name}-node"

    @property
    def kubelet_identity(self) -> Identity:
        """The kubelet's certificate, towards the API server and for those who call it."""
        return Identity("kubelet", f"system:node:{self.name}", ("system:nodes",), (self.name, NODE_IP))

    @property
    def identities(self) -> tuple[Identity, ...]:
        """Everything here that talks to the API server."""
        return SCHEDULER, self.kubelet_identity, KUBE_PROXY, COREDNS, network_policies.IDENTITY

    @property
    def network_policies(self) -> NetworkPolicies:
        """What enforces the NetworkPolicies of its pods."""
        return NetworkPolicies(self.layout, self.isolation, self.name)

    def configure(self) -> None:
        """Write the configuration files."""
        write_if_changed(self._file("kubelet.yaml"), yaml.safe_dump(self._kubelet_configuration()))
        write_if_changed(self._file("kube-proxy.yaml"), yaml.safe_dump(self._kube_proxy_configuration()))
        write_if_changed(self._file("Corefile"), self._corefile())

    def scheduler(self, binary: Path) -> list[str | Path]:
        """The scheduler, alone and so without leader election."""
        kubeconfig = self.layout.component_kubeconfig(SCHEDULER)
        return [
            binary,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        ]

    def kubelet(self, binary: Path) -> list[str | Path]:
        """The kubelet."""
        return [
            binary,
            f"--config={self._file('kubelet.yaml')}",
            f"--kubeconfig={self.layout.component_kubeconfig(self.kubelet_identity)}",
            f"--hostname-override={self.name}",
            f"--node-ip={NODE_IP}",
        ]

    def kube_proxy(self, binary: Path) -> list[str | Path]:
        """kube-proxy, which makes Services work."""
        return [binary, f"--config={self._file('kube-proxy.yaml')}"]

    def coredns(self, binary: Path) -> list[str | Path]:
        """Cluster DNS, on the node instead of in pods: it needs no image."""
        return [binary, f"-conf={self._file('Corefile')}"]

    def _file(self, name: str) -> Path:
        return self.layout.directory / name

    def _kubelet_configuration(self) -> dict[str, Any]:
        serving = self.layout.pki.pair(self.kubelet_identity.name)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.layout.pki.cluster_ca)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.isolation.cgroup,
            "enforceNodeAllocatable": [],  # the machine is shared with the person who works on it
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self.isolation.containerd_socket}",
            "clusterDNS": [DNS_IP],
            "clusterDomain": "cluster.local",
            # The machine's own name servers can not be reached from inside.
            "resolvConf": "",
            # A developer's disk is often nearly full, and images are loaded by hand: never remove one.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }

    def _kube_proxy_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(self.layout.component_kubeconfig(KUBE_PROXY))},
            "clusterCIDR": POD_CIDR,
            "hostnameOverride": self.name,
            # These limits belong to the whole machine.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }

    def _corefile(self) -> str:
        # Without a cache: a gang's pods look one another up in the very second in which they come to be.
        return f"""\
.:53 {{
    bind {NODE_IP}
    errors
    ready {NODE_IP}:{_DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {self.layout.component_kubeconfig(COREDNS)}
        pods insecure
    }}
}}
"""


def objects() -> str:
    """What the node's parts need in the API, as JSON: their rights, and the Service by which DNS is known."""
    metadata = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    dns: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"clusterIP": DNS_IP, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [NODE_IP]}],
        },
    ]
    rights = [
        *read_rights(COREDNS, _COREDNS_READS),
        *read_rights(network_policies.IDENTITY, network_policies.READS),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*rights, *dns]})
