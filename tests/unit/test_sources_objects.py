"""Data of object stores: S3 over its own protocol on loopback, the others as far as their clients are made."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

import fetched
from fetched import config, told
from finetune_api import names
from finetune_api.secrets import OBJECT_STORE_KEYS
from finetune_api.sources import ObjectStore
from finetune_trainer import checks
from finetune_trainer.ends.errors import AccessDeniedError, InvalidConfigurationError, TrainerError
from finetune_trainer.sources import objects, transfer
from finetune_trainer.sources.object_store import filesystem
from finetune_trainer.sources.patterns import compiled
from plug import Plug

MODEL = {"volume": {"claimName": "models", "path": "tiny"}}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
ROWS = b'{"messages": []}\n'
BUCKET = "corpora"


@dataclass(frozen=True)
class Store:
    """An S3 server behind a plug, with a bucket."""

    client: Any
    plug: Plug

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def gets(self) -> int:
        """Bytes that have come from it."""
        return self.plug.passed("down")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    yield made.get_host_and_port()
    made.stop()


@pytest.fixture
def store(server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for key in (*OBJECT_STORE_KEYS["s3"], "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    # No pod, and no machine of a cloud, lends an identity here.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(names, "CREDENTIALS_DIR", str(tmp_path / "credentials"))
    host, port = server
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=BUCKET)
    plug = Plug(server)
    _credentials(tmp_path, KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{plug.address[1]}"})
    yield Store(client, plug)
    plug.close()
    for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=one["Key"])
    client.delete_bucket(Bucket=BUCKET)


def _credentials(tmp_path: Path, keys: dict[str, str], name: str = "train") -> Path:
    directory = tmp_path / "credentials" / name
    directory.mkdir(parents=True, exist_ok=True)
    for key, value in keys.items():
        (directory / key).write_text(value)
    return directory


def _save_model(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "tiny"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")


def _train(uri: str) -> dict[str, Any]:
    return {"objectStore": {"uri": uri, "credentialsSecretRef": {"name": "s3"}}}


def test_an_object_is_there_with_its_digest_and_size(store: Store, tmp_path: Path) -> None:
    store.put("data/train.jsonl", ROWS)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/data/train.jsonl"))
    run, transfers = fetched.fetched(asked)
    [file] = run.locations.data["train"]
    assert Path(file).read_bytes() == ROWS
    assert Path(file).name == "train.jsonl"
    assert (transfers[-1].of, transfers[-1].bytes) == (f"s3://{BUCKET}/data/train.jsonl", len(ROWS))
    _save_model(tmp_path)
    one = told(run)["train"]
    assert one.digest == f"sha256:{hashlib.sha256(ROWS).hexdigest()}"
    assert (one.bytes, one.revision) == (len(ROWS), None)
    assert one.path is not None
    assert (tmp_path / "runs" / one.path).read_bytes() == ROWS


def test_objects_of_a_pattern_are_read_in_the_order_of_their_names(store: Store, tmp_path: Path) -> None:
    for number in (2, 0, 1):
        store.put(f"data/train-{number}.jsonl", ROWS * (number + 1))
    for other in ("data/test-0.jsonl", "data/old/train-9.jsonl", "train-0.jsonl"):
        store.put(other, b"")
    run, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/data/train-*.jsonl")))
    assert [Path(file).read_bytes() for file in run.locations.data["train"]] == [ROWS, 2 * ROWS, 3 * ROWS]
    _save_model(tmp_path)
    assert told(run)["train"].path == f"{names.DOWNLOADS_DIR}/objects"


def test_addresses_may_be_as_long_as_the_spec_lets_them(store: Store, tmp_path: Path) -> None:
    key = "/".join(["directory" * 20] * 4) + "/" + "n" * 200 + ".jsonl"
    store.put(key, ROWS)
    uri = f"s3://{BUCKET}/{key}"
    run, transfers = fetched.fetched(config(tmp_path, MODEL, _train(uri)))
    assert Path(run.locations.data["train"][0]).read_bytes() == ROWS
    assert uri.endswith(transfers[-1].of)


@pytest.mark.parametrize(
    "uri", [f"s3://{BUCKET}/none.jsonl", f"s3://{BUCKET}/no*.jsonl", "s3://nobody/x.jsonl"]
)
def test_what_is_not_there_is_named(store: Store, tmp_path: Path, uri: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        fetched.fetched(config(tmp_path, MODEL, _train(uri)))
    assert str(caught.value).startswith(f'spec.dataset.train: "{uri}": there is nothing of this name')


def test_a_download_goes_on_after_a_cut_where_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ROWS * (1 << 18)  # 4.25 MiB
    store.put("train.jsonl", content)
    monkeypatch.setattr(objects, "_BLOCK", 1 << 20)
    store.plug.pull_after(2_500_000, "down")

    def pause(progress: transfer.Progress, seconds: float) -> None:
        store.plug.put_back()

    monkeypatch.setattr(transfer.Progress, "pause", pause)
    run, transfers = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl")))
    [file] = run.locations.data["train"]
    assert Path(file).read_bytes() == content
    # No more than the block that was cut came twice, and what surrounds the blocks.
    assert store.gets() < len(content) + (1 << 20) + 100_000
    assert transfers[-1].bytes == len(content)


def test_a_later_process_goes_on_from_what_is_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ROWS * (1 << 18)
    store.put("train.jsonl", content)
    monkeypatch.setattr(objects, "_BLOCK", 1 << 20)
    monkeypatch.setattr(transfer, "PATIENCE", 0.0)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl"))
    store.plug.pull_after(3_500_000, "down")
    with pytest.raises(
        TrainerError, match=r"spec\.dataset\.train:.*nothing came for.*goes on from it"
    ) as caught:
        fetched.fetched(asked)
    assert caught.value.exit_code == 1
    store.plug.put_back()
    before = store.gets()
    run, _ = fetched.fetched(asked)
    assert Path(run.locations.data["train"][0]).read_bytes() == content
    assert store.gets() - before < len(content) - 2 * (1 << 20)


def test_an_object_that_changed_meanwhile_is_not_spliced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ROWS * (1 << 18), b"#" * (len(ROWS) << 18)
    store.put("train.jsonl", old)
    monkeypatch.setattr(objects, "_BLOCK", 1 << 20)
    store.plug.pull_after(2_500_000, "down")

    def pause(progress: transfer.Progress, seconds: float) -> None:
        store.put("train.jsonl", new)
        store.plug.put_back()

    monkeypatch.setattr(transfer.Progress, "pause", pause)
    run, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl")))
    assert Path(run.locations.data["train"][0]).read_bytes() == new
    assert not list(Path(run.locations.downloads).rglob("*.part"))


def test_an_object_that_changes_between_the_blocks_is_not_spliced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = b"1" * (3 << 20), b"2" * (3 << 20)
    store.put("train.jsonl", old)
    monkeypatch.setattr(objects, "_BLOCK", 1 << 20)
    added = transfer.Progress.add

    def add(progress: transfer.Progress, count: int) -> None:
        added(progress, count)
        store.put("train.jsonl", new)

    monkeypatch.setattr(transfer.Progress, "add", add)
    run, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl")))
    assert Path(run.locations.data["train"][0]).read_bytes() == new


class _KilledError(Exception):
    """A process that ends at once, with all of an object received."""


@pytest.mark.parametrize("end", ["cut", "killed"])
def test_an_object_is_not_spliced_where_the_last_look_at_it_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    old, new = b"1" * (3 << 20), b"2" * (3 << 20)
    store.put("train.jsonl", old)
    monkeypatch.setattr(objects, "_BLOCK", 1 << 20)
    received: list[int] = []
    added = transfer.Progress.add

    def add(progress: transfer.Progress, count: int) -> None:
        added(progress, count)
        received.append(count)
        if sum(received) == len(old) - (1 << 20):
            store.put("train.jsonl", new)
        elif sum(received) == len(old) and end == "cut":
            store.plug.pull()
        elif sum(received) == len(old):
            raise _KilledError

    def pause(progress: transfer.Progress, seconds: float) -> None:
        store.plug.put_back()

    monkeypatch.setattr(transfer.Progress, "add", add)
    monkeypatch.setattr(transfer.Progress, "pause", pause)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl"))
    if end == "killed":
        with pytest.raises(_KilledError):
            fetched.fetched(asked)
        [part] = Path(asked.locations.downloads).rglob("*.part")
        assert part.read_bytes() == old[: 2 << 20] + new[: 1 << 20]
    run, _ = fetched.fetched(asked)
    assert Path(run.locations.data["train"][0]).read_bytes() == new
    assert not list(Path(run.locations.downloads).rglob("*.part"))


def test_what_may_be_of_several_versions_does_not_pass_for_one_that_is_restored(
    store: Store, tmp_path: Path
) -> None:
    store.put("train.jsonl", ROWS)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl"))
    run, _ = fetched.fetched(asked)
    file = Path(run.locations.data["train"][0])
    # What a process has left that was killed before its last look, when it fetched a lost file anew.
    file.rename(file.with_name(f"{file.name}.{asked.uid}.part")).write_bytes(b"x" * len(ROWS))
    store.put("train.jsonl", b"x" * len(ROWS))
    with pytest.raises(InvalidConfigurationError, match="changed since this run began"):
        fetched.fetched(asked)
    store.put("train.jsonl", ROWS)
    fetched.fetched(asked)
    assert file.read_bytes() == ROWS


def test_objects_whose_names_end_alike_all_count(store: Store, tmp_path: Path) -> None:
    _save_model(tmp_path)
    keys = ["2026-01/part-0.jsonl", "2026-02/part-0.jsonl"]
    found = []
    for count in (1, 2):
        contents = dict(zip(keys, (count * ROWS, ROWS), strict=True))
        for key, content in contents.items():
            store.put(key, content)
        asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/2026-*/part-0.jsonl"), name=f"run-{count}")
        found.append(told(fetched.fetched(asked)[0])["train"].digest)
        lines = [
            f"{hashlib.sha256(content).hexdigest()}  {BUCKET}/{key}\n" for key, content in contents.items()
        ]
        assert found[-1] == f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
    assert found[0] != found[1]


def test_objects_whose_names_end_differently_go_by_the_ends(store: Store, tmp_path: Path) -> None:
    _save_model(tmp_path)
    store.put("2026-01/a.jsonl", ROWS)
    store.put("2026-02/b.jsonl", 2 * ROWS)
    run, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/2026-*/*.jsonl")))
    lines = f"{hashlib.sha256(ROWS).hexdigest()}  a.jsonl\n{hashlib.sha256(2 * ROWS).hexdigest()}  b.jsonl\n"
    assert told(run)["train"].digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def test_a_run_keeps_to_the_objects_that_it_began_with(store: Store, tmp_path: Path) -> None:
    store.put("train.jsonl", ROWS)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/*.jsonl"))
    run, _ = fetched.fetched(asked)
    store.put("train.jsonl", 2 * ROWS)
    store.put("another.jsonl", ROWS)
    assert fetched.fetched(asked)[0] == run
    later, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/*.jsonl"), name="later"))
    assert [Path(file).read_bytes() for file in later.locations.data["train"]] == [ROWS, 2 * ROWS]
    # What it began with is gone for good: to train on something else would be another run.
    Path(run.locations.data["train"][0]).unlink()
    with pytest.raises(InvalidConfigurationError, match=r"train\.jsonl changed since this run began"):
        fetched.fetched(asked)
    assert not list(Path(run.locations.downloads).rglob("*.part"))


def test_jobs_share_objects_that_are_the_same(store: Store, tmp_path: Path) -> None:
    store.put("train.jsonl", ROWS * (1 << 14))
    first, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl")))
    before = store.gets()
    second, _ = fetched.fetched(config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl"), name="second"))
    assert second.locations.data == first.locations.data
    assert store.gets() - before < 10_000


def test_without_a_secret_the_environment_has_the_keys(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("train.jsonl", ROWS)
    for file in (tmp_path / "credentials" / "train").iterdir():
        monkeypatch.setenv(file.name, file.read_text())
    monkeypatch.setattr(names, "CREDENTIALS_DIR", str(tmp_path / "none"))
    run, _ = fetched.fetched(config(tmp_path, MODEL, {"objectStore": {"uri": f"s3://{BUCKET}/train.jsonl"}}))
    assert Path(run.locations.data["train"][0]).read_bytes() == ROWS


def test_nobody_s_keys_are_told_as_such(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "CREDENTIALS_DIR", str(tmp_path / "none"))
    with pytest.raises(AccessDeniedError, match="credentialsSecretRef is not set"):
        fetched.fetched(config(tmp_path, MODEL, {"objectStore": {"uri": f"s3://{BUCKET}/train.jsonl"}}))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"token": "x"}, 'Secret "s3" has none of the keys that are looked at: AWS_ACCESS_KEY_ID'),
        ({"AWS_ACCESS_KEY_ID": "x"}, "has AWS_ACCESS_KEY_ID, and not AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_secrets_that_cannot_be_are_told_as_such(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    stated = ObjectStore.model_validate(_train("s3://b/x.jsonl")["objectStore"])
    with pytest.raises(InvalidConfigurationError, match=said):
        filesystem(stated, _credentials(tmp_path, keys))


def test_google_s_client_gets_what_the_secret_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("gcsfs.core.GCSFileSystem", lambda **options: made.append(options))
    account = {"type": "service_account", "private_key": "…"}
    stated = ObjectStore(uri="gs://bucket/data/train.jsonl")
    _, path = filesystem(
        stated, _credentials(tmp_path, {"GOOGLE_APPLICATION_CREDENTIALS_JSON": json.dumps(account)})
    )
    assert path == "bucket/data/train.jsonl"
    filesystem(stated, _credentials(tmp_path, {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:4443"}, "emulated"))
    filesystem(stated, tmp_path / "none")
    tokens = [(options["token"], options["endpoint_url"]) for options in made]
    assert tokens == [(account, None), ("anon", "http://127.0.0.1:4443"), ("google_default", None)]
    with pytest.raises(InvalidConfigurationError, match="no JSON in GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        filesystem(stated, _credentials(tmp_path, {"GOOGLE_APPLICATION_CREDENTIALS_JSON": "{"}, "damaged"))


_AZURE = "DefaultEndpointsProtocol=http;BlobEndpoint=http://storage.example/a;AccountName=a;AccountKey=a2V5"
_ELSEWHERE: dict[str, dict[str, str]] = {
    "s3": KEYS | {"AWS_ENDPOINT_URL": "http://storage.example"},
    "gs": {"STORAGE_EMULATOR_HOST": "http://storage.example"},
    "az": {"AZURE_STORAGE_CONNECTION_STRING": _AZURE},
}


@pytest.mark.parametrize("scheme", list(_ELSEWHERE))
def test_the_proxy_that_the_environment_names_is_the_way_to_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        client, path = filesystem(
            ObjectStore(uri=f"{scheme}://bucket/train.jsonl"), _credentials(tmp_path, _ELSEWHERE[scheme])
        )
        with suppress(OSError):
            client.info(path)
        proxy.shutdown()
    assert any(url.startswith("http://storage.example/") for url in asked), asked


def test_azure_s_client_gets_what_the_secret_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("adlfs.AzureBlobFileSystem", lambda **options: made.append(options))
    keys = {name: f"value of {name}" for name in OBJECT_STORE_KEYS["az"]}
    _, path = filesystem(ObjectStore(uri="az://container/a/b"), _credentials(tmp_path, keys))
    assert path == "container/a/b"
    [options] = made
    assert {options[name] for name in ("connection_string", "account_name", "account_key", "sas_token")} == {
        f"value of AZURE_STORAGE_{name}"
        for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN")
    }
    assert [options[name] for name in ("tenant_id", "client_id", "client_secret")] == [
        f"value of AZURE_{name}" for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")
    ]
    assert options["anon"] is False


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/*.jsonl", "a/b.jsonl", True),
        ("a/*.jsonl", "a/b/c.jsonl", False),
        ("a/**/*.jsonl", "a/b/c/d.jsonl", True),
        ("a/**/*.jsonl", "a/d.jsonl", True),
        ("a/[1].jsonl", "a/1.jsonl", False),
        ("a/[1].jsonl", "a/[1].jsonl", True),
        ("a.jsonl", "axjsonl", False),
    ],
)
def test_patterns_match_within_a_name(pattern: str, path: str, matches: bool) -> None:
    assert bool(compiled(pattern).fullmatch(path)) is matches


def test_the_downloads_of_a_run_are_checked_like_any_input(store: Store, tmp_path: Path) -> None:
    store.put("train.jsonl", ROWS)
    asked = config(tmp_path, MODEL, _train(f"s3://{BUCKET}/train.jsonl"))
    with pytest.raises(
        InvalidConfigurationError, match=r"spec\.dataset\.train:.*is not on the storage claim"
    ):
        checks.check_inputs(asked, later={"model"})
    checks.check_inputs(fetched.fetched(asked)[0], later={"model"})
