"""`finetune logs`: whose log is shown, and in which order. Real pods have it shown in tests/e2e."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.aio.client import ApiClient, Configuration

from finetune_api import names
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.gang_logs import kubelets
from finetune_operator.cli.gang_logs.choice import chosen, on_volume
from finetune_operator.cli.gang_logs.lines import Line, merged, stamped
from finetune_operator.observation import reading
from terminal import finetune
from world import START, submitted

FAILED = FineTuneJobStatus(
    phase=Phase.FAILED,
    attempts=[
        Attempt(number=1, start_time=START, end_time=START, reason="Disrupted"),
        Attempt(number=2, start_time=START, end_time=START, reason="Error"),
    ],
)
MERGING = FAILED.model_copy(
    update={"attempts": [*FAILED.attempts, Attempt(number=3, start_time=START, reason="Completed")]}
)


def test_by_default_it_is_the_log_of_what_failed_or_runs() -> None:
    assert chosen(FineTuneJobStatus(phase=Phase.PREPARING), None, None) == names.PREPARATION
    assert chosen(FineTuneJobStatus(phase=Phase.FAILED), None, None) == names.PREPARATION
    assert chosen(FAILED, None, None) == 2
    assert chosen(MERGING, None, None) == names.MERGING
    assert chosen(MERGING.model_copy(update={"phase": Phase.SUCCEEDED}), None, None) == 3


def test_others_are_named_by_number_by_step_or_as_the_one_before() -> None:
    assert chosen(FAILED, None, None, previous=True) == 1
    assert chosen(MERGING, None, None, previous=True) == 3
    assert chosen(FAILED, 1, None) == 1
    assert chosen(FAILED, None, "publish") == names.PUBLISHING
    with pytest.raises(CommandError, match="there is no attempt 7: there are 1, 2"):
        chosen(FAILED, 7, None)
    with pytest.raises(CommandError, match="no attempt before the first one; --step prepare"):
        chosen(FAILED, 1, None, previous=True)
    with pytest.raises(CommandError, match="there is no attempt 1: there is none yet"):
        chosen(FineTuneJobStatus(), 1, None)


def test_where_it_lies_on_the_claim_is_where_the_trainer_puts_it() -> None:
    job = submitted().job
    assert job is not None
    assert on_volume(job, 2, 1) == "demo/logs/attempt-2/node-1.log"
    assert on_volume(job, 2, None) == "demo/logs/attempt-2/node-R.log"
    assert on_volume(job, names.MERGING, None) == "demo/logs/attempt-merge/node-0.log"


def test_lines_of_several_pods_are_merged_by_the_kubelets_times() -> None:
    zero = [stamped(0, line) for line in ("2026-01-01T12:00:01.5Z a", "2026-01-01T12:00:03.000000001Z c")]
    one = [stamped(1, "2026-01-01T12:00:02.123456789Z b: with: colons"), stamped(1, "no time")]
    assert [(line.rank, line.text) for line in merged([zero, one])] == [
        (0, "a"),
        (1, "b: with: colons"),
        (1, "no time"),
        (0, "c"),
    ]


@given(st.lists(st.lists(st.integers(min_value=0, max_value=50), max_size=8), max_size=4))
def test_nothing_is_lost_and_no_pods_own_order_is_changed(seconds: list[list[int]]) -> None:
    logs = [
        [stamped(rank, f"2026-01-01T12:00:{second:02}Z {number}") for number, second in enumerate(log)]
        for rank, log in enumerate(seconds)
    ]
    lines = list(merged(logs))
    for rank, log in enumerate(logs):
        assert [line.text for line in lines if line.rank == rank] == [line.text for line in log]


def write(directory: Path, attempt: str, **nodes: str) -> None:
    folder = directory / "logs" / f"attempt-{attempt}"
    folder.mkdir(parents=True)
    for node, text in nodes.items():
        (folder / f"node-{node.removeprefix('n')}.log").write_text(text)


def test_the_directory_of_a_run_has_them_with_tracebacks_in_one_piece(tmp_path: Path) -> None:
    write(tmp_path, "0", n0="2026-01-01 12:00:00,000 INFO prepared\n")
    write(tmp_path, "9", n0="2026-01-01 12:30:00,000 rank 0 INFO old\n")
    write(
        tmp_path,
        "10",
        n0="2026-01-01 13:00:01,500 rank 0 ERROR broken\nTraceback:\n  here\n",
        n1="2026-01-01 13:00:01,600 rank 1 INFO later\n10%\r100%\n",
    )
    shown = finetune("logs", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [
        "0 | 2026-01-01 13:00:01,500 rank 0 ERROR broken",
        "0 | Traceback:",
        "0 |   here",
        "1 | 2026-01-01 13:00:01,600 rank 1 INFO later",
        "1 | 100%",
    ]
    assert finetune("logs", tmp_path, "--previous").stdout == "2026-01-01 12:30:00,000 rank 0 INFO old\n"
    assert finetune("logs", tmp_path, "--step", "prepare").stdout == "2026-01-01 12:00:00,000 INFO prepared\n"
    assert finetune("logs", tmp_path, "--rank", "1", "--tail", "1").stdout == "1 | 100%\n"


def test_a_log_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path) -> None:
    for arguments, code, words in (
        ([], 1, "there are no logs in"),
        (["--follow"], 2, "tail -f follows files"),
        (["--attempt", "1", "--step", "merge"], 2, "exclude one another"),
    ):
        refused = finetune("logs", tmp_path, *arguments)
        assert (refused.exit_code, words in refused.stderr) == (code, True), refused.output
    write(tmp_path, "2", n0="a\n", n1="b\n")
    for arguments, words in (
        (["--attempt", "1"], "there is no log of attempt 1"),
        (["--rank", "5"], "attempt 2 has no log of rank 5: there are 0, 1"),
        (["--step", "merge"], "there is no log of the merging"),
    ):
        refused = finetune("logs", tmp_path, *arguments)
        assert (refused.exit_code, words in refused.stderr) == (1, True), refused.output


def wire_pod(phase: str, *, waiting: str | None = None, **status: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": waiting}} if waiting is not None else {}
    return {
        "metadata": {
            "name": "demo-2-0-x",
            "labels": {"finetune.dev/job": "demo", "finetune.dev/attempt": "2"},
            "ownerReferences": [{"kind": "Job", "name": "demo-2", "uid": "job-uid", "controller": True}],
        },
        "status": {"phase": phase, "containerStatuses": [{"name": "trainer", "state": state}]} | status,
    }


REJECTED = wire_pod(
    "Failed", reason="UnexpectedAdmissionError", message="Allocate failed: no healthy devices present"
)
WORDS = "UnexpectedAdmissionError: Allocate failed: no healthy devices present"


async def followed(
    monkeypatch: pytest.MonkeyPatch, logs: list[int | str], pods: list[dict[str, Any] | None]
) -> tuple[list[str], list[str], str | None]:
    """What is shown and said, and the error, where log and pod are asked for in turn; the last answers stay."""
    monkeypatch.setattr(kubelets, "_LOOK_AGAIN_SECONDS", 0.01)
    lines: list[Line] = []
    said: list[str] = []

    async def log(_: web.Request) -> web.Response:
        told = logs.pop(0) if len(logs) > 1 else logs[0]
        return web.Response(text=told) if isinstance(told, str) else web.Response(status=told)

    async def listed(request: web.Request) -> web.Response:
        assert request.query["fieldSelector"] == "metadata.name=demo-2-0-x"
        pod = pods.pop(0) if len(pods) > 1 else pods[0]
        return web.json_response({"items": [] if pod is None else [pod]})

    application = web.Application()
    application.router.add_get("/api/v1/namespaces/team/pods", listed)
    application.router.add_get("/api/v1/namespaces/team/pods/demo-2-0-x/log", log)
    pod = reading.pod(wire_pod("Pending", waiting="ContainerCreating"), "demo")
    assert pod is not None
    async with TestServer(application) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        # The client's own tries of what fails take seconds.
        configuration.retries = 1
        async with ApiClient(configuration) as api, asyncio.timeout(10):
            try:
                await kubelets.Kubelets(api, "team").follow([pod], None, lines.append, said.append)
            except CommandError as error:
                return [line.text for line in lines], said, str(error)
    return [line.text for line in lines], said, None


async def test_a_pod_that_fails_before_it_has_started_is_not_followed_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulling = wire_pod("Pending", waiting="ImagePullBackOff")
    for answer, words in (
        (400, "there is no log of it, and it is over"),
        (500, "its kubelet does not give its log: 500 Internal Server Error, and it is over"),
    ):
        shown, said, error = await followed(monkeypatch, [400, answer], [pulling, REJECTED])
        assert (shown, error) == ([], "none of the pods has a log")
        assert said == [
            "demo-2-0-x: its container has not started: ImagePullBackOff",
            f"demo-2-0-x: {words}: {WORDS}",
        ]


@pytest.mark.parametrize(("answer", "found"), [(400, None), (404, REJECTED)])
async def test_a_pod_that_is_gone_is_not_followed_for_ever(
    monkeypatch: pytest.MonkeyPatch, answer: int, found: dict[str, Any] | None
) -> None:
    shown, said, error = await followed(monkeypatch, [answer], [found])
    assert (shown, said, error) == ([], ["demo-2-0-x: the pod is gone"], "none of the pods has a log")


async def test_a_pod_that_begins_and_ends_while_it_is_waited_for_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pods: list[dict[str, Any] | None] = [
        wire_pod("Pending", waiting="ContainerCreating"),
        wire_pod("Succeeded"),
    ]
    logs: list[int | str] = [400, 400, "2026-01-01T12:00:01Z a\n"]
    shown, said, error = await followed(monkeypatch, logs, pods)
    assert (shown, error) == (["a"], None)
    assert said == ["demo-2-0-x: its container has not started: ContainerCreating"]


async def test_a_log_that_is_only_read_says_how_a_pod_without_one_ended() -> None:
    application = web.Application()

    async def log(_: web.Request) -> web.Response:
        return web.Response(status=400)

    application.router.add_get("/api/v1/namespaces/team/pods/demo-2-0-x/log", log)
    pod = reading.pod(REJECTED, "demo")
    assert pod is not None
    async with TestServer(application) as server:
        configuration = Configuration()
        configuration.host = str(server.make_url("")).rstrip("/")
        async with ApiClient(configuration) as api:
            read = await kubelets.Kubelets(api, "team").read([pod], None)
    assert read.silent == [f"demo-2-0-x: there is no log of it, and it is over: {WORDS}"]
