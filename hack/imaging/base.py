"""The local base image: Debian's own Python, put together by debootstrap.

It stands in for the official Python image where no Docker engine is there to fetch that one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from clusters.console import step
from clusters.shell import output

REPOSITORY = "localhost/finetune-base"
_SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
# What a container has no use for, and (the last two) what debootstrap copies from the machine it runs on.
_REMOVED = (
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
    "etc/hostname",
    "etc/resolv.conf",
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

RECIPE = "\n".join((_SUITE, *_PACKAGES, *_REMOVED, _PATH))
"""Everything that the base depends on."""

REFERENCE = f"{REPOSITORY}:{_SUITE}-{hashlib.sha256(RECIPE.encode()).hexdigest()[:12]}"


def make() -> None:
    """Make the base and keep it in buildah's storage as REFERENCE. Takes about a minute.

    Raises:
        ClusterError: debootstrap could not fetch or unpack a package.
    """
    container = output("buildah", "from", "scratch").strip()
    try:
        with step(f"base image from Debian {_SUITE}"):
            root = Path(output("buildah", "mount", container).strip())
            output("debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, root)
            for name in _REMOVED:
                _remove(root / name)
            output("buildah", "config", "--env", f"PATH={_PATH}", "--env", "LANG=C.UTF-8", container)
            output("buildah", "commit", "--quiet", container, REFERENCE)
    finally:
        # Not through output(): its error would hide the one that led here.
        subprocess.run(["buildah", "rm", container], stdout=sys.stderr, check=False)


def _remove(path: Path) -> None:
    """Remove a file, or all that is in a folder: programs expect the folder itself to be there."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()
