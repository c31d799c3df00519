"""Models and data of a hub, over its own protocol, on loopback."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants, snapshot_download
from safetensors.numpy import save

import fetched
from fetched import config, told
from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.adapters.identity import Named, named
from finetune_trainer.ends.errors import (
    AccessDeniedError,
    InvalidConfigurationError,
    StorageFullError,
    TrainerError,
    UntrustedFileError,
)
from finetune_trainer.sources import transfer
from hub_server import HubServer
from plug import Plug

REPO = "team/tiny"
MODEL = {"huggingFace": {"repo": REPO}}
WEIGHTS = save({"weight": np.arange(1 << 20).astype(np.uint8)})
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"chat_template": ""}',
    "model.safetensors": WEIGHTS,
    "README.md": b"license: mit",
}
NOT_OURS = {
    "pytorch_model.bin": b"pickle",
    "modeling_tiny.py": b"import os",
    "original/config.json": b"{}",
    "original/model.safetensors": b"another form",
    "onnx/model.onnx": b"another one",
}
ROWS = b'{"messages": []}\n'


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    server = HubServer()
    _use(server.url, monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(names, "CREDENTIALS_DIR", str(tmp_path / "credentials"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(ROWS)
    yield server
    server.close()


def _use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The library reads them when it is imported; the administrator sets them in the environment before.
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def _token(tmp_path: Path, name: str, value: str) -> None:
    directory = tmp_path / "credentials" / name
    directory.mkdir(parents=True)
    (directory / "token").write_text(f"{value}\n")


def _there(run: RunConfig) -> dict[str, bytes]:
    directory = Path(run.locations.model)
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_model_is_there_with_its_commit_digest_and_size(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repository(REPO).commit(FILES | NOT_OURS)
    run, transfers = fetched.fetched(config(tmp_path, MODEL))
    assert _there(run) == FILES
    checks.check(run, node=0)
    assert named(Path(run.locations.model)) == Named(REPO, commit)
    total = sum(map(len, FILES.values()))
    assert {one.total_bytes for one in transfers} >= {total}
    assert transfers[-1].bytes == total
    model = told(run)["model"]
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(FILES.items())]
    assert model.digest == f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
    assert (model.revision, model.bytes) == (commit, total)
    assert model.path == f"{names.DOWNLOADS_DIR}/huggingface/models--team--tiny/snapshots/{commit}"
    # Nothing else was asked for.
    assert not [one.path for one in hub.requests if any(name in one.path for name in NOT_OURS)]


def test_the_library_of_the_hub_finds_what_was_downloaded(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repository(REPO).commit(FILES)
    run, _ = fetched.fetched(config(tmp_path, MODEL))
    cache = Path(run.locations.downloads) / "huggingface"
    found = snapshot_download(REPO, cache_dir=cache, local_files_only=True)
    assert Path(found) == Path(run.locations.model)
    assert Path(found).name == commit


def test_a_run_keeps_to_its_commit_when_the_branch_moves(hub: HubServer, tmp_path: Path) -> None:
    first = hub.repository(REPO).commit(FILES)
    asked = config(tmp_path, MODEL)
    run, _ = fetched.fetched(asked)
    moved = FILES | {"model.safetensors": WEIGHTS[::-1]}
    second = hub.repository(REPO).commit(moved)
    # As after a pod that was lost, with what it had downloaded.
    (Path(run.locations.model) / "model.safetensors").unlink()
    again, _ = fetched.fetched(asked)
    assert Path(again.locations.model).name == first
    assert _there(again) == FILES
    another, _ = fetched.fetched(config(tmp_path, MODEL, name="another"))
    assert Path(another.locations.model).name == second
    assert _there(another) == moved
    # Whoever starts later, and only reads, finds the same.
    file = tmp_path / "run.json"
    file.write_text(asked.to_json())
    assert checks.load(file) == again


def test_what_a_run_has_is_not_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(REPO).commit(FILES)
    asked = config(tmp_path, MODEL)
    run, _ = fetched.fetched(asked)
    hub.close()
    assert fetched.fetched(asked)[0] == run


def test_jobs_share_what_they_have_in_common(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(REPO).commit(FILES)
    fetched.fetched(config(tmp_path, MODEL))
    run, _ = fetched.fetched(config(tmp_path, MODEL, name="another"))
    assert _there(run) == FILES
    assert len(hub.downloads("model.safetensors")) == 1


def test_a_revision_that_is_stated_is_what_is_taken(hub: HubServer, tmp_path: Path) -> None:
    old = hub.repository(REPO).commit(FILES)
    hub.repository(REPO).commit(FILES | {"model.safetensors": b"new"})
    run, _ = fetched.fetched(config(tmp_path, {"huggingFace": {"repo": REPO, "revision": old}}))
    assert _there(run) == FILES


SCRIPT = """
import sys
from pathlib import Path
from finetune_api.runconfig import RunConfig
import fetched
fetched.fetched(RunConfig.model_validate_json(Path(sys.argv[1]).read_text()))
"""


def _process(run: RunConfig, file: Path, url: str) -> subprocess.Popen[bytes]:
    file.write_text(run.to_json())
    environment = {"HF_ENDPOINT": url, "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], env=environment)


def _wait(until: Any) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_goes_on_where_a_killed_process_left_it(hub: HubServer, tmp_path: Path) -> None:
    large = FILES | {"model.safetensors": 8 * WEIGHTS}
    hub.repository(REPO).commit(large)
    plug = Plug(hub.address)
    run = config(tmp_path, MODEL)
    blobs = Path(run.locations.downloads) / "huggingface" / "models--team--tiny" / "blobs"
    plug.pull_after(4 << 20, "down")
    process = _process(run, tmp_path / "run.json", f"http://127.0.0.1:{plug.address[1]}")
    try:
        _wait(plug.is_pulled)
        # It tries again; nothing of it is left in buffers by the time that it has.
        _wait(lambda: plug.refused() > 0)
    finally:
        process.kill()
        process.wait()
    parts = [part for part in blobs.glob("*.part") if part.stat().st_size > 1 << 20]
    assert len(parts) == 1
    size = parts[0].stat().st_size
    hub.requests.clear()
    plug.close()
    located, transfers = fetched.fetched(run)
    assert [one.range for one in hub.downloads("model.safetensors")] == [f"bytes={size}-"]
    assert _there(located) == large
    assert transfers[-1].bytes == sum(map(len, large.values()))
    assert not list(blobs.glob("*.part"))


def test_a_download_goes_on_when_the_line_is_back(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository(REPO).commit(FILES)
    plug = Plug(hub.address)
    _use(f"http://127.0.0.1:{plug.address[1]}", monkeypatch)
    plug.pull_after(300_000, "down")

    def pause(progress: transfer.Progress, seconds: float) -> None:
        if plug.refused() > 1:
            plug.put_back()
        time.sleep(min(seconds, 0.05))

    monkeypatch.setattr(transfer.Progress, "pause", pause)
    run, _ = fetched.fetched(config(tmp_path, MODEL))
    assert _there(run) == FILES
    plug.close()


def test_a_hub_that_stays_away_is_left_for_another_trial(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository(REPO).commit(FILES)
    hub.close()
    monkeypatch.setattr(transfer, "PATIENCE", 0.1)
    with pytest.raises(
        TrainerError, match=r"spec.model: Hugging Face repository.*nothing came for"
    ) as caught:
        fetched.fetched(config(tmp_path, MODEL))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_content_that_is_not_what_the_hub_says_is_not_taken(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    hub.repository(REPO).commit(FILES)
    run = config(tmp_path, MODEL)
    hub.damaged = {name: FILES[name][::-1]}
    with pytest.raises(TrainerError, match=f"{name}: twice, what came has not the digest"):
        fetched.fetched(run)
    assert not list(Path(run.locations.downloads).glob("huggingface/*/snapshots/*/*"))
    hub.damaged = {}
    assert _there(fetched.fetched(run)[0]) == FILES


def test_two_jobs_that_download_at_the_same_time_do_no_harm(hub: HubServer, tmp_path: Path) -> None:
    large = FILES | {"model.safetensors": 16 * WEIGHTS}
    hub.repository(REPO).commit(large)
    runs = [config(tmp_path, MODEL, name=name) for name in ("one", "two", "three")]
    processes = [_process(run, tmp_path / f"{run.name}.json", hub.url) for run in runs]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    # One was the first; the others waited for it.
    assert len(hub.downloads("model.safetensors")) == 1
    for run in runs:
        located = checks.load(tmp_path / f"{run.name}.json")
        assert _there(located) == large
    assert not list(Path(runs[0].locations.downloads).rglob("*.part"))


def test_where_locks_do_not_work_all_of_them_download(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", locked)
    hub.repository(REPO).commit(FILES)
    assert _there(fetched.fetched(config(tmp_path, MODEL))[0]) == FILES


@pytest.mark.parametrize("stated", [True, False])
def test_what_is_not_public_takes_its_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    hub.repository(REPO).token = "hf_right"
    hub.repository(REPO).commit(FILES)
    reference = {"tokenSecretRef": {"name": "hub", "key": "read"}} if stated else {}
    run = config(tmp_path, {"huggingFace": {"repo": REPO, **reference}})
    if stated:
        _token(tmp_path, "model", "hf_right")
        monkeypatch.setenv("HF_TOKEN", "hf_another")
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert _there(fetched.fetched(run)[0]) == FILES


def test_a_token_that_may_not_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(REPO).token = "hf_right"
    hub.repository(REPO).commit(FILES)
    with pytest.raises(AccessDeniedError, match=r"spec.model:.*team/tiny.*tokenSecretRef is not set.*401"):
        fetched.fetched(config(tmp_path, MODEL))
    _token(tmp_path, "model", "hf_wrong")
    asked = {"huggingFace": {"repo": REPO, "tokenSecretRef": {"name": "hub", "key": "read"}}}
    with pytest.raises(AccessDeniedError, match=r'key "read" of Secret "hub".*401') as caught:
        fetched.fetched(config(tmp_path, asked))
    assert "hf_wrong" not in str(caught.value)


def test_a_gated_repository_says_what_to_do(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(REPO).gated = True
    hub.repository(REPO).commit(FILES)
    with pytest.raises(AccessDeniedError, match="is gated: accept its conditions"):
        fetched.fetched(config(tmp_path, MODEL))


def test_what_the_hub_does_not_have_is_named(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigurationError, match=r'spec.model:.*has no model repository "team/tiny"'):
        fetched.fetched(config(tmp_path, MODEL))
    hub.repository(REPO).commit(FILES)
    asked = {"huggingFace": {"repo": REPO, "revision": "v9"}}
    with pytest.raises(InvalidConfigurationError, match='"team/tiny" has no revision "v9"'):
        fetched.fetched(config(tmp_path, asked))


def test_pickles_are_not_downloaded(hub: HubServer, tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    hub.repository(REPO).commit(files | NOT_OURS)
    with pytest.raises(UntrustedFileError, match=r"pytorch_model.bin only"):
        fetched.fetched(config(tmp_path, MODEL))
    hub.repository(REPO).commit(files)
    with pytest.raises(InvalidConfigurationError, match="no weights"):
        fetched.fetched(config(tmp_path, MODEL, name="another"))
    assert not [one for one in hub.requests if "/resolve/" in one.path]


@pytest.mark.parametrize("path", ["additional_chat_templates/../../../../x.jinja", "/x.jinja"])
def test_a_mirror_cannot_have_files_written_elsewhere(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.repository(REPO).commit(FILES | {path: b"{}"})
    run = config(tmp_path, MODEL)
    with pytest.raises(TrainerError, match="which is no file of a repository"):
        fetched.fetched(run)
    assert not list(tmp_path.rglob("x.jinja*"))


def test_files_of_a_data_set_are_read_in_the_order_of_their_names(hub: HubServer, tmp_path: Path) -> None:
    hub.repository(REPO).commit(FILES)
    rows = {f"data/train-{number}.jsonl": ROWS * (number + 1) for number in (2, 0, 1)}
    others = {"data/test-0.jsonl": b"", "data/old/train-9.jsonl": b"", "README.md": b""}
    commit = hub.repository("team/rows", "dataset").commit(rows | others)
    train = {"huggingFace": {"repo": "team/rows", "path": "data/train-*.jsonl"}}
    run, _ = fetched.fetched(config(tmp_path, MODEL, train))
    contents = [Path(file).read_bytes() for file in run.locations.data["train"]]
    assert contents == [ROWS, 2 * ROWS, 3 * ROWS]
    assert told(run)["train"].revision == commit
    one = {"huggingFace": {"repo": "team/rows", "path": "data/train-1.jsonl"}}
    single, _ = fetched.fetched(config(tmp_path, MODEL, one, name="single"))
    assert told(single)["train"].digest == f"sha256:{hashlib.sha256(2 * ROWS).hexdigest()}"
    none = {"huggingFace": {"repo": "team/rows", "path": "train.jsonl"}}
    with pytest.raises(
        InvalidConfigurationError, match=r"dataset.train:.*no such file; it has README.md, data/"
    ):
        fetched.fetched(config(tmp_path, MODEL, none, name="none"))


def test_without_a_hub_the_cache_has_it_or_the_message_says_where_to_put_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.repository(REPO).commit(FILES)
    run = config(tmp_path, MODEL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidConfigurationError) as caught:
        fetched.fetched(run)
    cache = Path(run.locations.downloads) / "huggingface"
    assert f"hf download {REPO} --revision main" in str(caught.value)
    assert str(cache) in str(caught.value)
    snapshot_download(REPO, cache_dir=cache)
    hub.close()
    located, _ = fetched.fetched(run)
    assert _there(located) == FILES
    assert told(located)["model"].revision == commit


def test_a_volume_that_is_too_small_is_told_before(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repository(REPO).commit(FILES)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageFullError, match="bytes are to be downloaded, and 1000 are free"):
        fetched.fetched(config(tmp_path, MODEL))
    assert not hub.downloads("model.safetensors")


def test_processes_that_only_read_say_what_was_not_downloaded(hub: HubServer, tmp_path: Path) -> None:
    run = config(tmp_path, MODEL)
    with pytest.raises(InvalidConfigurationError, match=r"spec.model:.*is not on the storage claim"):
        checks.check(run, node=0)


def test_inputs_on_volumes_have_digests_too(tmp_path: Path) -> None:
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    for name, content in FILES.items():
        (model / name).write_bytes(content)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes(ROWS)
    run = config(tmp_path, {"volume": {"claimName": "models", "path": "tiny"}})
    checks.check(run, node=0)
    before = told(run)
    assert before["train"].digest == f"sha256:{hashlib.sha256(ROWS).hexdigest()}"
    assert before["train"].origin == '"train.jsonl" on claim "data"'
    assert (before["train"].bytes, before["train"].path) == (len(ROWS), None)
    assert before["model"].digest.startswith("sampled-sha256:")
    assert before["model"].bytes == sum(map(len, FILES.values()))
    (model / "model.safetensors").write_bytes(WEIGHTS[::-1])
    assert told(run)["model"].digest != before["model"].digest
    kept = json.loads((tmp_path / "runs" / "run" / names.INPUTS_FILE).read_text())
    assert {one["name"] for one in kept["inputs"]} == {"model", "train"}
