"""What goes into each image, and the tag that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.base import RECIPE

ROOT = Path(__file__).resolve().parents[2]

# Every image is made of these, and of its own packages.
_COMMON = (".dockerignore", "Dockerfile", "LICENSE", "pyproject.toml", "uv.lock", "crds/finetune_api")


@dataclass(frozen=True)
class Image:
    """One image of the project: its target in the Dockerfile, and the files and folders it is made of."""

    target: str
    sources: tuple[str, ...]

    @property
    def repository(self) -> str:
        """The image's name without a tag."""
        return f"localhost/finetune-{self.target}"

    def reference(self, root: Path = ROOT) -> str:
        """The image's full name; its tag is a digest of everything below `root` that goes into the image."""
        # The local base counts for Docker too, so that the name does not depend on who builds.
        digest = hashlib.sha256(RECIPE.encode())
        for file in files(root, self.sources):
            content = file.read_bytes()
            digest.update(f"\0{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
        return f"{self.repository}:{digest.hexdigest()[:12]}"


IMAGES = {
    image.target: image
    for image in (
        Image("operator", (*_COMMON, "operator/finetune_operator")),
        Image("trainer", (*_COMMON, "trainer_image/finetune_trainer")),
    )
}


def files(root: Path, sources: Sequence[str]) -> Iterator[Path]:
    """All files that `sources` (files or folders below `root`) stand for, in an order that is always the same.

    Raises FileNotFoundError for a source that is not there.
    """
    for source in sorted(sources):
        path = root / source
        if not path.exists():
            raise FileNotFoundError(f"{path} goes into an image, but does not exist")
        inner = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inner if file.is_file() and "__pycache__" not in file.parts)


def superseded(references: Sequence[str], current: str, keep: int = 2) -> list[str]:
    """Which of `references`, newest first, to remove: all but `current` and the newest others, `keep` in all."""
    return [reference for reference in references if reference != current][keep - 1 :]
