"""Where the development cluster keeps things, and under which names."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from clusters import kind, paths, ports
from clusters.console import ClusterError
from clusters.ports import free_ports
from clusters.volumes import parse_claim, volume_objects


def test_xdg_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cluster_directory("dev") == tmp_path / "state/finetune-operator/clusters/dev"
    assert paths.binaries_directory() == tmp_path / ".cache/finetune-operator/bin"


@pytest.mark.parametrize("name", ["", "Dev", "-dev", "dev-", "a/b", "..", "a" * 21])
def test_names_that_could_not_be_used_everywhere(name: str) -> None:
    with pytest.raises(ClusterError, match="is not allowed"):
        paths.cluster_directory(name)


@pytest.mark.parametrize("name", ["a", "dev", "my-2nd", "a" * 20])
def test_names_that_can(name: str) -> None:
    assert paths.cluster_directory(name).name == name


def test_one_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = tmp_path / "folder" / "lock"
    order = []

    def second() -> None:
        with paths.locked(lock, "waiting for the first"):
            order.append("second")

    said = ""
    with paths.locked(lock, "not said"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 60
        while not said and thread.is_alive() and time.monotonic() < deadline:
            said = capsys.readouterr().err
            thread.join(timeout=0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert said + capsys.readouterr().err == "waiting for the first\n"


def test_a_file_with_the_right_content_is_not_touched(tmp_path: Path) -> None:
    file = tmp_path / "file"
    paths.write_if_changed(file, "one")
    os.utime(file, (0, 0))
    paths.write_if_changed(file, "one")
    assert file.stat().st_mtime == 0
    paths.write_if_changed(file, "two")
    assert file.read_text() == "two"


def test_ports_are_different_and_free() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "_share", lambda: range(taken, taken + 1))
        monkeypatch.setattr(ports, "_given", {taken: None})
        with pytest.raises(ClusterError, match="free ports"):
            free_ports(1)


def test_a_port_comes_again_as_late_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was given it may be about to start, or to start again."""
    share = range(free_ports(1)[0], 30000)[:5]
    monkeypatch.setattr(ports, "_share", lambda: share)
    monkeypatch.setattr(ports, "_given", {})
    monkeypatch.setattr(ports, "_is_free", lambda port: True)
    first, second = free_ports(3), free_ports(2)
    assert set(first) | set(second) == set(share)
    assert free_ports(5) == [*first, *second]


def test_no_other_process_is_given_the_same_ports() -> None:
    """Servers listen some time after their port was found free, and tests run side by side."""
    ours = set(free_ports(50))
    script = "from clusters.ports import free_ports; print(*free_ports(400)); input()"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(2)
    ]
    theirs = [set(map(int, other.stdout.readline().split())) for other in others if other.stdout]
    for other in others:
        other.communicate("\n", timeout=60)
    assert [len(found) for found in theirs] == [400, 400]
    assert not theirs[0] & theirs[1]
    assert not ours & (theirs[0] | theirs[1])


def test_claims() -> None:
    assert parse_claim("demo/runs") == ("demo", "runs")


@pytest.mark.parametrize("text", ["demo", "demo/", "/runs", "a/b/c"])
def test_claims_of_another_form(text: str) -> None:
    with pytest.raises(ClusterError, match="NAMESPACE/CLAIM"):
        parse_claim(text)


def test_a_volume_and_its_claim_are_for_one_another_alone() -> None:
    volume, claim = volume_objects(PurePosixPath("/volumes/demo/runs"), "demo", "runs", "1Gi")["items"]
    assert volume["spec"]["claimRef"] == {"namespace": "demo", "name": "runs"}
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["metadata"] == {"name": "runs", "namespace": "demo"}
    for each in (volume, claim):
        assert each["spec"]["accessModes"] == ["ReadWriteMany"]
        assert each["spec"]["storageClassName"] == ""
    assert volume["spec"]["hostPath"]["path"] == "/volumes/demo/runs"
    assert volume["spec"]["capacity"]["storage"] == claim["spec"]["resources"]["requests"]["storage"] == "1Gi"


def test_volumes_of_different_claims_differ() -> None:
    def name(namespace: str, claim: str) -> str:
        volume, _ = volume_objects(PurePosixPath("/v"), namespace, claim, "1Gi")["items"]
        found: str = volume["metadata"]["name"]
        return found

    assert name("a-b", "c") != name("a", "b-c")


def test_a_kind_node_sees_the_folder_of_volumes() -> None:
    [node] = kind.render_config(Path("/home/me/volumes"))["nodes"]
    assert node["extraMounts"] == [{"hostPath": "/home/me/volumes", "containerPath": "/volumes"}]
