"""Kubernetes on this machine, without Docker: a whole cluster, or its control plane alone for tests."""

from clusters.local.control_plane import ControlPlane

__all__ = ["ControlPlane"]
