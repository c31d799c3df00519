"""`finetune watch`: its options, and what no real API server does on demand. The rest is tested against one."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import kube_config
from rich.console import Console
from typer.testing import CliRunner

from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.cli import following
from finetune_operator.cli.cluster import connect
from finetune_operator.cli.display import Display
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.main import cli
from finetune_operator.cli.watch import duration
from world import stored

HANG = "hang"
# A plugin as those of cloud providers: each time it gives out another token.
PLUGIN = """\
echo run >> {runs}
token=token-$(wc -l < {runs} | tr -d ' ')
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {{"token": "'$token'"}}}}'
"""


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2h0m5s", 7205)])
def test_durations_are_read_as_kubectl_reads_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "m", "1d", "-5s", "1h 30m", ""])
def test_other_durations_are_wrong_usage(text: str) -> None:
    result = CliRunner().invoke(cli, ["watch", "demo", f"--timeout={text}"])
    assert result.exit_code == 2
    assert "is not a duration such as 90s, 30m or 1h30m" in result.stderr


class ApiServer:
    """Has one job, and answers as it is told to."""

    def __init__(self, directory: Path, answers: list[Any]) -> None:
        self.answers = answers
        """To requests for the job, in their order: a phase, a number of HTTP, or HANG; the last one stays."""
        self.watches: Any = None
        """To every watch: HANG, or it ends at once."""
        self.tokens: list[str] = []
        """What the requests for the job came with."""
        self.kubeconfig = directory / "config"
        self.runs = directory / "runs"
        """A line for every run of the user's plugin."""
        self.asked = asyncio.Event()
        self._closing = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        is_watch = "watch" in request.query
        if is_watch:
            told = self.watches
        else:
            self.asked.set()
            self.tokens.append(request.headers.get("authorization", ""))
            told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if told == HANG:
            await self._closing.wait()
        if isinstance(told, int):
            return web.json_response({"code": told, "reason": "Refused"}, status=told)
        if is_watch:
            return web.Response()
        return web.json_response(stored(FineTuneJobStatus(phase=told)))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_get("/{path:.*}", self.answer)
        async with TestServer(application) as server:
            self.write_kubeconfig(str(server.make_url("")))
            try:
                # What goes wrong here goes on for ever.
                async with asyncio.timeout(20):
                    yield
            finally:
                self._closing.set()

    def write_kubeconfig(self, server: str, *, current: str = "here") -> None:
        plugin = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/sh",
            "args": ["-c", PLUGIN.format(runs=self.runs)],
        }
        elsewhere = "http://127.0.0.1:1"
        content = {
            "current-context": current,
            "clusters": [
                {"name": name, "cluster": {"server": url}}
                for name, url in (("here", server), ("elsewhere", elsewhere))
            ],
            "contexts": [
                {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}},
                {"name": "elsewhere", "context": {"cluster": "elsewhere", "user": "me"}},
            ],
            "users": [{"name": "me", "user": {"exec": plugin}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client looks once where it is, when it is imported; and keeps for all what it has read."""
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    monkeypatch.setattr(following, "RECONNECT_SECONDS", 0.01)
    yield
    Configuration.set_default(None)


async def follow(seconds: float | None = None) -> tuple[FineTuneJobStatus, str]:
    """The last status, and what was said."""
    console = Console(record=True, quiet=False, width=200)
    with console.capture() as said:
        status = await following.follow("demo", None, seconds, Display(console))
    return status, said.get()


async def test_a_token_that_has_run_out_is_renewed_from_the_same_context(tmp_path: Path) -> None:
    api = ApiServer(tmp_path, [Phase.RUNNING, 401, Phase.RUNNING, Phase.RUNNING, 401, Phase.SUCCEEDED])
    async with api.serving():
        following_it = asyncio.create_task(follow())
        await api.asked.wait()
        # Somebody goes on with another cluster in the next terminal.
        url = yaml.safe_load(api.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        api.write_kubeconfig(url, current="elsewhere")
        status, _ = await following_it
    assert status.phase is Phase.SUCCEEDED
    numbers = [token.removeprefix("Bearer token-") for token in api.tokens]
    assert numbers == ["1", "1", "2", "2", "2", "3"]


@pytest.mark.parametrize(
    ("answers", "runs"), [([Phase.RUNNING, 401], 2), ([401], 1)], ids=["later", "at first"]
)
async def test_a_token_that_is_refused_although_it_is_new_ends_it(
    tmp_path: Path, answers: list[Any], runs: int
) -> None:
    api = ApiServer(tmp_path, answers)
    async with api.serving():
        with pytest.raises(CommandError, match="the API server refuses: 401"):
            await follow()
    assert len(api.runs.read_text().splitlines()) == runs


async def test_an_api_server_that_hangs_is_a_lost_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(following, "WATCH_SECONDS", 0)
    monkeypatch.setattr(following, "GRACE_SECONDS", 0.2)
    api = ApiServer(tmp_path, [Phase.RUNNING, HANG, Phase.SUCCEEDED])
    api.watches = HANG
    async with api.serving():
        status, said = await follow()
    assert status.phase is Phase.SUCCEEDED
    # Once because of the watch, and once because of what was asked next.
    assert said.count("the API server cannot be reached: no answer in time") == 2


async def test_an_api_server_that_hangs_from_the_beginning_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ANSWER_SECONDS", 0.2)
    api = ApiServer(tmp_path, [HANG])
    async with api.serving():
        with pytest.raises(CommandError, match="cannot be reached: no answer in time"):
            await follow()


@pytest.mark.parametrize("answers", [[HANG], [Phase.RUNNING]], ids=["unreached", "reached"])
async def test_its_own_timeout_ends_it_while_the_api_server_hangs(tmp_path: Path, answers: list[Any]) -> None:
    api = ApiServer(tmp_path, answers)
    api.watches = HANG
    async with api.serving():
        began = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await follow(0.5)
        assert asyncio.get_running_loop().time() - began < 5


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a: [1", "config is no valid YAML"),
        ("", "config is empty, or not written as a kubeconfig is"),
        ("- a\n", "config is empty, or not written as a kubeconfig is"),
        ("clusters: 3\n", "config is empty, or not written as a kubeconfig is"),
        ("current-context: a\n", "there is no usable kubeconfig: "),
        (None, "there is no usable kubeconfig: "),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_an_error_that_names_it(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "config").write_text(content)
    result = CliRunner().invoke(cli, ["watch", "demo"])
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, complaint in result.stderr) == (1, True), result.output


@pytest.mark.parametrize(("named", "found"), [(None, "default"), ("team", "team")])
def test_a_context_without_a_namespace_means_default_unless_one_is_named(
    tmp_path: Path, named: str | None, found: str
) -> None:
    context = {"name": "a", "context": {"cluster": "a", "namespace": None}}
    cluster = {"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}
    content = {"current-context": "a", "contexts": [context], "clusters": [cluster]}
    (tmp_path / "config").write_text(json.dumps(content))
    assert asyncio.run(connect(named)) == found
    # The cluster is that of the kubeconfig in any case.
    assert Configuration.get_default_copy().host == "http://127.0.0.1:1"
