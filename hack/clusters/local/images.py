"""Images from buildah's or Docker's store into a local cluster's containerd.

Of an image of several gigabytes mostly the last layer changes. Only layers that containerd has not unpacked yet are
looked at. Those of buildah's store it takes over as they are; others are read and sent, and once they are unpacked,
their archives are thrown away. So each layer is on the disk once.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clusters.console import ClusterError, say, step
from clusters.images import full_reference
from clusters.local.containerd import PAUSE_IMAGE, Containerd
from clusters.local.layers import take_over, unpacked_by_buildah
from clusters.oci import Blob, single_program_image, write_archive
from clusters.shell import output

_BUILDAH = "containers-storage:"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def load_pause_image(containerd: Containerd, program: Path) -> None:
    """Make the image that holds every pod's namespaces, unless it is there."""
    if PAUSE_IMAGE not in containerd.image_digests():
        manifest, others = single_program_image(program, _ARCHITECTURES[platform.machine()])
        containerd.import_archive(lambda stream: write_archive(stream, PAUSE_IMAGE, manifest, others))


def load_image(containerd: Containerd, image: str) -> None:
    """Make `image` available to pods under that name, unless containerd has the very same one.

    Raises:
        ClusterError: there is no such image on this machine, or it can not be copied.
    """
    source = _find(image)
    manifest = output("skopeo", "inspect", "--raw", source)
    reference = full_reference(image)
    diff_ids = json.loads(output("skopeo", "inspect", "--config", "--raw", source))["rootfs"]["diff_ids"]
    snapshots = containerd.snapshots()
    same_image = containerd.image_digests().get(reference) == Blob.of(manifest.encode()).digest
    if same_image and chain_ids(diff_ids)[-1] in snapshots:
        say(f"{image}: already loaded")
        return
    layers = json.loads(manifest)["layers"]
    present = unpacked(diff_ids, layers, snapshots)
    with step(f"{image}: {_total(layers[len(present) :])} of {_total(layers)}"):
        taken = _take_over(containerd, diff_ids, layers, present) if source.startswith(_BUILDAH) else []
        shutil.rmtree(containerd.staging, ignore_errors=True)  # of a load that was killed
        try:
            _copy(source, containerd.staging, layers[: len(present) + len(taken)], containerd, reference)
        finally:
            shutil.rmtree(containerd.staging)
        for chain_id in taken:
            containerd.release(chain_id)


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each layer together with all below it, by which containerd knows what is unpacked."""
    chain: list[str] = []
    for diff_id in diff_ids:
        below = f"{chain[-1]} {diff_id}" if chain else None
        chain.append(f"sha256:{hashlib.sha256(below.encode()).hexdigest()}" if below else diff_id)
    return chain


def unpacked(
    diff_ids: Sequence[str], layers: Sequence[dict[str, Any]], snapshots: set[str]
) -> list[dict[str, Any]]:
    """The lowest of `layers` that need not be sent: unpacked already, and stored without compression.

    A compressed layer gets another digest on the way, so it can not be named before it has been read.
    """
    present = []
    for diff_id, layer, chain_id in zip(diff_ids, layers, chain_ids(diff_ids), strict=True):
        if chain_id not in snapshots or layer["digest"] != diff_id:
            break
        present.append(layer)
    return present


def _take_over(
    containerd: Containerd,
    diff_ids: Sequence[str],
    layers: Sequence[dict[str, Any]],
    present: Sequence[dict[str, Any]],
) -> list[str]:
    """Have containerd take the layers above those that are present from buildah; returns their names there."""
    chain = chain_ids(diff_ids)
    taken: list[str] = []
    folders = unpacked_by_buildah(diff_ids)
    for number in range(len(present), len(folders)):
        if layers[number]["digest"] != diff_ids[number]:
            break  # as in unpacked()
        below = chain[number - 1] if number else None
        containerd.make_snapshot(chain[number], below, partial(take_over, folders[number]))
        taken.append(chain[number])
    return taken


def _find(image: str) -> str:
    """skopeo's name for the image in the store that has it; buildah puts short names under localhost/."""
    names = [f"{_BUILDAH}{image}", f"{_BUILDAH}localhost/{image}", f"docker-daemon:{image}"]
    problems = []
    for name in names:
        try:
            output("skopeo", "inspect", "--raw", name)
        except ClusterError as error:
            problems.append(str(error))
        else:
            return name
    raise ClusterError("\n".join([f"no image {image} on this machine:", *problems]))


def _copy(
    source: str, directory: Path, present: Sequence[dict[str, Any]], containerd: Containerd, reference: str
) -> None:
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in present:
        # An empty file of the right name and size keeps skopeo from writing this layer.
        with _file(blobs, layer).open("wb") as placeholder:
            placeholder.truncate(layer["size"])
    output("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, f"oci:{directory}")

    [described] = json.loads((directory / "index.json").read_text())["manifests"]
    manifest = _file(blobs, described).read_bytes()
    parts = json.loads(manifest)
    sent = {layer["digest"]: layer for layer in parts["layers"] if layer not in present}

    def send() -> Iterator[Blob]:
        for part in (parts["config"], *sent.values()):
            file = _file(blobs, part)
            yield Blob(part["digest"], part["size"], file)
            file.unlink()  # while layers are unpacked, the disk need not hold them a third time

    containerd.import_archive(lambda stream: write_archive(stream, reference, Blob.of(manifest), send()))
    containerd.discard(list(sent))


def _file(blobs: Path, descriptor: dict[str, Any]) -> Path:
    name: str = descriptor["digest"]
    return blobs / name.removeprefix("sha256:")


def _total(layers: Sequence[dict[str, Any]]) -> str:
    return f"{sum(layer['size'] for layer in layers) / 1e6:,.0f} MB"
