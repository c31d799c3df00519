"""Commands in an image as the cluster runs them: its own user, root file system read-only, a fresh /tmp."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from imaging.engines import Buildah, Engine

# Without a Docker engine: the image's files, mounted read-only in namespaces of their own, as the image's user.
_CHROOT = """
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
mount --options remount,bind,ro "$root"
mount --types tmpfs tmpfs "$root/tmp"
mount --types proc proc "$root/proc"
mount --bind /dev "$root/dev"
exec chroot --userspec="$user" "$root" /usr/bin/env --ignore-environment "$@"
"""


class Container(Protocol):
    """An image to run commands in."""

    def run(self, *command: str) -> str:
        """What the command printed; a command that fails fails the test."""

    def config(self) -> dict[str, Any]:
        """The image's configuration: User, Entrypoint, Env, Labels."""


@contextmanager
def container(engine: Engine, reference: str) -> Iterator[Container]:
    """A Container of the image `reference`, which `engine` has."""
    if not isinstance(engine, Buildah):
        yield _Docker(reference)
        return
    working = _output("buildah", "from", reference)
    try:
        yield _Chroot(reference, _output("buildah", "mount", working))
    finally:
        _output("buildah", "rm", working)


class _Docker:
    def __init__(self, reference: str) -> None:
        self._reference = reference

    def run(self, *command: str) -> str:
        program, *arguments = command
        options = ("--rm", "--read-only", "--tmpfs=/tmp", "--network=none", "--cap-drop=ALL")
        return _output("docker", "run", *options, f"--entrypoint={program}", self._reference, *arguments)

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_output("docker", "image", "inspect", self._reference))[0][
            "Config"
        ]
        return found


class _Chroot:
    def __init__(self, reference: str, root: str) -> None:
        self._reference = reference
        self._root = root

    def run(self, *command: str) -> str:
        config = self.config()
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--net")
        shell = ("sh", "-euc", _CHROOT, "sh", self._root, config["User"])
        return _output(*namespaces, *shell, *config["Env"], *command)

    def config(self) -> dict[str, Any]:
        inspected = json.loads(_output("buildah", "inspect", "--type", "image", self._reference))
        found: dict[str, Any] = inspected["OCIv1"]["config"]
        return found


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()
