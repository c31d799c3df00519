"""NetworkPolicies on the node of a local cluster, enforced by kube-network-policies' own controller.

The kernel asks it, through a queue, about the first packet of every connection from or to a pod, and drops the packet
when the answer is no, and when nobody answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clusters.local.containerd import POD_CIDR
from clusters.local.isolation import Isolation
from clusters.local.layout import Layout
from clusters.pki import Identity
from clusters.shell import output

IDENTITY = Identity("network-policies", "system:network-policies")
READS = {"": ["pods", "namespaces"], "networking.k8s.io": ["networkpolicies"]}
_QUEUE = 100
_CHAIN = "NETWORK-POLICIES"
# The controller has rules of its own for this, in nftables. Many kernels lack nftables' `queue`, and those have
# iptables' NFQUEUE: with both, a packet is asked about twice, and the answer is the same.
_RULES = f"""\
*mangle
:{_CHAIN} - [0:0]
-A {_CHAIN} -m owner --uid-owner 0 -j RETURN
-A {_CHAIN} -m conntrack ! --ctstate NEW -j RETURN
-A {_CHAIN} -s {POD_CIDR} -j NFQUEUE --queue-num {_QUEUE}
-A {_CHAIN} -d {POD_CIDR} -j NFQUEUE --queue-num {_QUEUE}
COMMIT
"""
# The last hook: by then a Service's address has become that of a pod, and the sender's is still its own.
_JUMP = f"POSTROUTING --jump {_CHAIN}"


@dataclass(frozen=True)
class NetworkPolicies:
    """The enforcement on the node `node`, which lives in `isolation`."""

    layout: Layout
    isolation: Isolation
    node: str

    def divert(self) -> None:
        """Have the kernel ask from now on; what the node's own root does, the kubelet's probes say, passes."""
        output(*self.isolation.enter, "iptables-restore", "--noflush", "--wait", stdin=_RULES)
        iptables = "iptables --wait --table mangle"
        jump = f"{iptables} --check {_JUMP} 2>/dev/null || {iptables} --append {_JUMP}"
        output(*self.isolation.enter, "sh", "-c", jump)

    def controller(self, binary: Path) -> list[str | Path]:
        """Who is asked."""
        kubeconfig = self.layout.component_kubeconfig(IDENTITY)
        return [binary, f"--kubeconfig={kubeconfig}", f"--node={self.node}", f"--queue={_QUEUE}"]
