"""OCI image archives, as `ctr images import` reads them: written as a stream, without a file in between."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class Blob:
    """Some content by its digest; `content` is the bytes or the file that holds them."""

    digest: str
    size: int
    content: bytes | Path

    @classmethod
    def of(cls, content: bytes) -> Blob:
        """The blob that holds `content`."""
        return cls(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), content)

    def descriptor(self, media_type: str) -> dict[str, Any]:
        """How a manifest refers to the blob."""
        return {"mediaType": media_type, "digest": self.digest, "size": self.size}


def write_archive(stream: IO[bytes], reference: str, manifest: Blob, others: Iterable[Blob]) -> None:
    """Write the archive of one image, to be known as `reference`.

    `others` are its configuration and layers; a layer that the reader has already may be left out.
    """
    described = manifest.descriptor(_MANIFEST) | {"annotations": {"io.containerd.image.name": reference}}
    index = {"schemaVersion": 2, "manifests": [described]}
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps(index).encode())
        for blob in itertools.chain([manifest], others):  # each is made when it is its turn
            _add(archive, f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", blob.content)


def single_program_image(program: Path, architecture: str) -> tuple[Blob, list[Blob]]:
    """The manifest and other blobs of an image that holds one static program, which it starts."""
    layer_file = io.BytesIO()
    with tarfile.open(fileobj=layer_file, mode="w") as archive:
        entry = tarfile.TarInfo(program.name)
        entry.mode, entry.size = 0o755, program.stat().st_size
        with program.open("rb") as opened:
            archive.addfile(entry, opened)
    layer = Blob.of(layer_file.getvalue())
    config = Blob.of(
        json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Entrypoint": [f"/{program.name}"]},
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
            }
        ).encode()
    )
    manifest = Blob.of(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": config.descriptor(_CONFIG),
                "layers": [layer.descriptor(_LAYER)],
            }
        ).encode()
    )
    return manifest, [config, layer]


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    entry = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
        return
    entry.size = content.stat().st_size
    with content.open("rb") as opened:
        archive.addfile(entry, opened)
