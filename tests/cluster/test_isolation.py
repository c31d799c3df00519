"""Local clusters beside one another, as far as the machine itself goes: namespaces, cgroups and folders."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters.local.isolation import Isolation
from clusters.shell import output

# One of those that a node's programs insist on.
FOLDER = Path("/run/containerd")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces for a local cluster")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Isolation, Isolation]]:
    """What two clusters run in."""
    made = tuple(Isolation(f"test-{name}-{os.getpid()}", tmp_path / name) for name in ("one", "two"))
    try:
        for isolation in made:
            isolation.create()
        yield made[0], made[1]
    finally:
        for isolation in made:
            isolation.remove()


def test_each_has_folders_of_its_own_and_keeps_them_when_another_goes(
    two: tuple[Isolation, Isolation],
) -> None:
    one, other = two
    for isolation in two:
        output(*isolation.enter, "touch", str(FOLDER / isolation.name))
    one.remove()
    assert output(*other.enter, "ls", str(FOLDER)).split() == [other.name]
    # One can come back beside the other.
    one.create()
    assert output(*one.enter, "ls", str(FOLDER)).split() == []
    assert output(*other.enter, "ls", str(FOLDER)).split() == [other.name]


def test_the_machine_is_as_it_was(tmp_path: Path) -> None:
    before = FOLDER.exists()
    isolation = Isolation(f"test-alone-{os.getpid()}", tmp_path / "alone")
    isolation.create()
    try:
        assert FOLDER.exists()
    finally:
        isolation.remove()
    assert FOLDER.exists() is before
    assert not isolation.mounts.exists()
    assert not isolation.network.exists()
