"""Images on their way into a local cluster: their names, what need not be sent, and the archive that is."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from clusters.console import ClusterError
from clusters.images import full_reference
from clusters.local.containerd import Containerd
from clusters.local.images import chain_ids, unpacked
from clusters.local.isolation import Isolation
from clusters.local.layers import folders, take_over
from clusters.oci import Blob, single_program_image, write_archive

# Of the example in the OCI image specification's terms: a chain id is the digest of "parent child".
A, B, C = (Blob.of(letter).digest for letter in (b"a", b"b", b"c"))
AB = Blob.of(f"{A} {B}".encode()).digest
ABC = Blob.of(f"{AB} {C}".encode()).digest


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("demo", "docker.io/library/demo:latest"),
        ("demo:1", "docker.io/library/demo:1"),
        ("team/demo", "docker.io/team/demo:latest"),
        ("localhost/demo:1", "localhost/demo:1"),
        ("localhost:5000/demo", "localhost:5000/demo:latest"),
        ("registry.example/team/demo:1", "registry.example/team/demo:1"),
        ("demo@sha256:abc", "docker.io/library/demo@sha256:abc"),
    ],
)
def test_names_as_the_kubelet_reads_them(image: str, reference: str) -> None:
    assert full_reference(image) == reference


def test_chain_ids() -> None:
    assert chain_ids([]) == []
    assert chain_ids([A, B, C]) == [A, AB, ABC]


def layers(*digests: str) -> list[dict[str, object]]:
    return [{"digest": digest, "size": 1} for digest in digests]


@pytest.mark.parametrize(
    ("stored", "snapshots", "count"),
    [
        ((A, B, C), set(), 0),
        ((A, B, C), {A}, 1),
        ((A, B, C), {A, AB, ABC}, 3),
        ((A, B, C), {AB, ABC}, 0),  # nothing can be put upon a layer that is not there
        ((A, "sha256:compressed", C), {A, AB, ABC}, 1),
    ],
)
def test_only_the_lowest_unpacked_layers_are_left_out(
    stored: tuple[str, ...], snapshots: set[str], count: int
) -> None:
    assert unpacked([A, B, C], layers(*stored), snapshots) == layers(*stored)[:count]


def test_an_archive_holds_the_image_under_its_name(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"a program")
    manifest, others = single_program_image(program, "amd64")
    stream = io.BytesIO()
    write_archive(stream, "localhost/pause:v1", manifest, others)

    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        files = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{Blob.of(content).digest.removeprefix('sha256:')}"

    def blob(descriptor: dict[str, str]) -> bytes:
        return files[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]

    [described] = json.loads(files["index.json"])["manifests"]
    assert described["annotations"] == {"io.containerd.image.name": "localhost/pause:v1"}
    parts = json.loads(blob(described))
    config = json.loads(blob(parts["config"]))
    assert config["config"]["Entrypoint"] == ["/pause"]
    [layer] = parts["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    with tarfile.open(fileobj=io.BytesIO(blob(layer))) as unpacked_layer:
        entry = unpacked_layer.getmember("pause")
        file = unpacked_layer.extractfile(entry)
        assert file is not None
        assert (entry.mode, file.read()) == (0o755, b"a program")


def test_blobs_are_asked_for_one_after_the_other(tmp_path: Path) -> None:
    stream = io.BytesIO()
    written = []

    def others() -> Iterator[Blob]:
        for content in (b"first" * 9999, b"second"):
            written.append(stream.tell())
            yield Blob.of(content)

    write_archive(stream, "demo", Blob.of(b"{}"), others())
    assert written[0] < written[1]


def containerd_with_client(script: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Containerd:
    """A containerd whose command-line client, which not every machine has, is a shell script."""
    client = directory / "bin" / "ctr"
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(client.parent), prepend=":")
    return Containerd(Isolation("dev", directory))


def test_an_archive_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    containerd = containerd_with_client("echo no space left; exit 1", tmp_path, monkeypatch)

    def write(stream: IO[bytes]) -> None:
        for _ in range(4):
            stream.write(bytes(2**20))

    with pytest.raises(ClusterError, match="no space left"):
        containerd.import_archive(write)


def test_half_an_archive_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    containerd = containerd_with_client(f"cat; touch {tmp_path}/accepted", tmp_path, monkeypatch)

    def write(stream: IO[bytes]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        containerd.import_archive(write)
    assert not (tmp_path / "accepted").exists()


def test_layers_are_found_where_buildah_has_unpacked_them_each_upon_the_one_before(tmp_path: Path) -> None:
    known = [
        {"id": "base", "diff-digest": A},
        {"id": "elsewhere", "parent": "another", "diff-digest": B},
        {"id": "second", "parent": "base", "diff-digest": B},
        {"id": "same-again", "parent": "second", "diff-digest": B},
    ]
    found = [
        place.relative_to(tmp_path / "overlay").parts[0] for place in folders(tmp_path, known, [A, B, B])
    ]
    assert found == ["base", "second", "same-again"]
    assert folders(tmp_path, known, [B]) == []
    assert len(folders(tmp_path, known, [A, C, B])) == 1


def test_a_layer_is_taken_over_without_a_copy(tmp_path: Path) -> None:
    layer, place = tmp_path / "layer", tmp_path / "place"
    (layer / "folder").mkdir(parents=True)
    (layer / "folder" / "file").write_text("content")
    (layer / "link").symlink_to("folder/file")
    layer.chmod(0o750)
    place.mkdir()
    take_over(layer, place)
    assert (place / "folder" / "file").samefile(layer / "folder" / "file")
    assert (place / "link").is_symlink()
    assert place.stat().st_mode == layer.stat().st_mode
