"""Layers as buildah has unpacked them, which containerd takes over as they are.

An archive of several gigabytes would be written, read and hashed several times on its way from one to the other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from clusters.shell import output


def unpacked_by_buildah(diff_ids: Sequence[str]) -> list[Path]:
    """The folders of the lowest of these layers, as many as buildah's store has; none where there is no such store."""
    if shutil.which("buildah") is None:
        return []
    store = json.loads(output("buildah", "info"))["store"]
    if store["GraphDriverName"] != "overlay" or store["GraphStatus"].get("Using metacopy") == "true":
        return []
    root = Path(store["GraphRoot"])
    known = json.loads((root / "overlay-layers" / "layers.json").read_text())
    return folders(root, known, diff_ids)


def folders(root: Path, known: Sequence[dict[str, str]], diff_ids: Sequence[str]) -> list[Path]:
    """The folder of each of the lowest of these layers that is `known`, each upon the one before."""
    found: list[Path] = []
    below: str | None = None
    for diff_id in diff_ids:
        matching = (
            layer["id"]
            for layer in known
            if layer.get("parent") == below and layer.get("diff-digest") == diff_id
        )
        below = next(matching, None)
        if below is None:
            break
        found.append(root / "overlay" / below / "diff")
    return found


def take_over(folder: Path, place: Path) -> None:
    """Have all that is in `folder` in `place`, too: by hard links, or by a copy where that is another file system.

    Neither buildah nor containerd ever writes to a file of a layer that is done.
    """
    link = ["--link"] if folder.stat().st_dev == place.stat().st_dev else []
    output("cp", "--archive", *link, f"{folder}/.", place)
