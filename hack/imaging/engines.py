"""Who builds the images: Docker where an engine answers, else buildah."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from clusters.console import ClusterError, step
from clusters.packages import OF_IMAGES, require_packages
from clusters.shell import output
from imaging import base
from imaging.content import ROOT, superseded

# The system's certificate bundle, in Debian and so in the base images.
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# A label that the Dockerfile gives to every stage; it tells our unnamed images from other people's.
_LABEL = "org.opencontainers.image.vendor=finetune.dev"


class Engine(Protocol):
    """Builds images and keeps them."""

    def has(self, reference: str) -> bool:
        """Whether the image is there."""

    def build(self, target: str, reference: str) -> None:
        """Build a target of the Dockerfile and name it.

        Raises:
            ClusterError: the build failed; the message has what the builder said.
        """

    def prune(self, repository: str, current: str) -> None:
        """Remove what `current` has made superfluous in its repository."""


class Docker:
    """The Docker engine; its build cache collects its own garbage."""

    def has(self, reference: str) -> bool:
        """See Engine."""
        return _succeeds("docker", "image", "inspect", reference)

    def build(self, target: str, reference: str) -> None:
        """See Engine."""
        with step(f"image {reference}"):
            output(
                *("docker", "build", "--target", target, "--tag", reference, ROOT),
                # Not as an option: a Docker without buildx, as Debian has it, knows none.
                environment=os.environ | {"BUILDKIT_PROGRESS": "plain"},
            )

    def prune(self, repository: str, current: str) -> None:
        """See Engine."""
        listed = output("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository)
        for reference in superseded(listed.split(), current):
            output("docker", "image", "rm", reference)


class Buildah:
    """buildah as root, in its default storage, on a base image of this machine's own making."""

    def has(self, reference: str) -> bool:
        """See Engine."""
        return _succeeds("buildah", "inspect", "--type", "image", reference)

    def build(self, target: str, reference: str) -> None:
        """See Engine."""
        if not self.has(base.REFERENCE):
            base.make()
            self.prune(base.REPOSITORY, base.REFERENCE)
        with step(f"image {reference}"):
            # Named, the stage with the tools outlives prune(), and the next build need not download them.
            for stage, name in (("tools", "localhost/finetune-tools:latest"), (target, reference)):
                output(
                    *("buildah", "build", "--layers", "--force-rm", "--target", stage, "--tag", name),
                    *("--build-arg", f"PYTHON_IMAGE={base.REFERENCE}"),
                    # No more privileges than root has in a container, and no network of its own to set up.
                    *("--isolation", "chroot", "--network", "host"),
                    *_host_certificates(),
                    ROOT,
                )

    def prune(self, repository: str, current: str) -> None:
        """See Engine."""
        listed = json.loads(output("buildah", "images", "--json"))
        listed.sort(key=lambda image: image["createdatraw"], reverse=True)
        names = [
            name for image in listed for name in image["names"] or [] if name.startswith(f"{repository}:")
        ]
        for reference in superseded(names, current):
            output("buildah", "rmi", reference)
        unnamed = ("--filter", "dangling=true", "--filter", f"label={_LABEL}")
        for identity in output("buildah", "images", "--quiet", "--no-trunc", *unnamed).split():
            output("buildah", "rmi", identity)


def find_engine() -> Engine:
    """The engine that works here.

    Raises:
        ClusterError: neither Docker nor buildah can be used; the message says why.
    """
    if shutil.which("docker") and _succeeds("docker", "version", "--format", "{{.Server.Version}}"):
        return Docker()
    if os.geteuid() != 0:
        raise ClusterError(
            "no Docker engine answers, and buildah needs root here: start Docker, or run this as root"
        )
    require_packages(OF_IMAGES, "building images without a Docker engine")
    return Buildah()


def _host_certificates() -> tuple[str, ...]:
    """Where the machine has been given a bundle of its own, the build's downloads trust it too.

    It is mounted while the build's commands run and never becomes part of an image.
    """
    bundle = os.environ.get("SSL_CERT_FILE")
    return ("--volume", f"{Path(bundle).resolve()}:{_CERTIFICATES}:ro") if bundle else ()


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
