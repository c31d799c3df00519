"""Which kind of cluster a machine gets, and what it is told when it can have none."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clusters import choice
from clusters.choice import Choice, Machine, decide, inspect_machine
from clusters.console import ClusterError
from clusters.existing import ExistingCluster
from clusters.local.cluster import LocalCluster
from clusters.local.standing import StandingControlPlane
from clusters.paths import cluster_directory
from clusters.record import Record

EVERYTHING = Machine(docker_obstacle=None, kind_obstacle=None, local_obstacle=None)
NO_DOCKER = replace(EVERYTHING, docker_obstacle="no Docker engine answers")
NOTHING = replace(NO_DOCKER, local_obstacle="it needs root")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("CLUSTER", raising=False)


@pytest.mark.parametrize(
    ("request_", "machine", "kind"),
    [
        ("auto", EVERYTHING, "kind"),
        ("auto", NO_DOCKER, "local"),
        ("auto", replace(EVERYTHING, kind_obstacle="Go is needed"), "local"),
        ("kind", EVERYTHING, "kind"),
        ("local", EVERYTHING, "local"),
        ("existing", NOTHING, "existing"),
    ],
)
def test_the_choice(request_: str, machine: Machine, kind: str) -> None:
    assert decide(request_, machine).kind == kind


def test_the_choice_says_why() -> None:
    assert decide("auto", NO_DOCKER) == Choice("local", "no Docker engine answers, but we are root on Linux")
    assert decide("local", EVERYTHING).why == "CLUSTER=local was given"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("auto", ["no Docker engine answers", "it needs root", "CLUSTER=existing"]),
        ("kind", ["CLUSTER=kind", "no Docker engine answers"]),
        ("local", ["CLUSTER=local", "it needs root"]),
    ],
)
def test_what_is_missing_is_named(request_: str, words: list[str]) -> None:
    with pytest.raises(ClusterError) as caught:
        decide(request_, NOTHING)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(("value", "message"), [("none", "finetune run"), ("minikube", "auto, kind, local")])
def test_values_of_cluster_that_make_none(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("CLUSTER", value)
    with pytest.raises(ClusterError, match=message):
        choice.requested()
    assert message in (choice.cluster_obstacle() or "")


def choose(*, control_plane: bool = False) -> object:
    return choice.choose_cluster("dev", control_plane=control_plane, agree=lambda _: False)[0]


def test_a_running_cluster_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "inspect_machine", lambda: NOTHING)
    assert "it needs root" in (choice.cluster_obstacle() or "")
    Record("existing").save(cluster_directory("dev"))
    assert isinstance(choose(), ExistingCluster)
    assert isinstance(choice.current_cluster("dev"), ExistingCluster)
    assert choice.is_up()
    assert choice.cluster_obstacle() is None


def test_a_running_cluster_is_not_taken_for_one_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    Record("existing").save(cluster_directory("dev"))
    monkeypatch.setenv("CLUSTER", "local")
    with pytest.raises(ClusterError, match=r"is up and of the kind existing"):
        choose()


def test_a_control_plane_is_asked_for_explicitly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose(control_plane=True), StandingControlPlane)

    Record("control-plane").save(cluster_directory("dev"))
    assert isinstance(choose(control_plane=True), StandingControlPlane)
    with pytest.raises(ClusterError, match=r"of the kind control-plane"):
        choose()

    Record("local").save(cluster_directory("dev"))
    assert isinstance(choose(), LocalCluster)
    with pytest.raises(ClusterError, match=r"of the kind local"):
        choose(control_plane=True)

    monkeypatch.setenv("CLUSTER", "kind")
    with pytest.raises(ClusterError, match=r"--control-plane makes a local cluster"):
        choose(control_plane=True)


def test_commands_on_a_cluster_that_is_not_there_say_how_to_get_one() -> None:
    assert not choice.is_up()
    with pytest.raises(ClusterError, match=r"hack/cluster up"):
        choice.current_cluster("dev")


def test_a_record_is_read_as_it_was_written() -> None:
    record = Record("local", {"admin_port": 1})
    record.save(cluster_directory("dev"))
    assert Record.load(cluster_directory("dev")) == record


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="others are told so before")
def test_root_in_a_container_that_may_make_no_namespaces_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "it needs to make namespaces, and may not here" in (inspect_machine().local_obstacle or "")
