"""Merging: the model that is written answers as base model and adapter do, and nothing that goes wrong costs either."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.methods import Lora
from finetune_api.report import Stage
from finetune_api.runconfig import RunConfig
from finetune_trainer import merging
from finetune_trainer.adapters import merge as adapters_merge
from finetune_trainer.adapters.adapter import Adapter, adapt
from finetune_trainer.adapters.identity import named
from finetune_trainer.adapters.merge import merge
from finetune_trainer.ends.errors import InvalidConfigurationError, TrainerError
from tiny import save_chat_data, save_tiny_model, save_tokenizer
from trainer import forked, gangs, local, mergings
from trainer.faults import Fault, Moment
from trainer.local import Folders

R, SAMPLES = 4, 24
WEIGHTS = "adapter_model.safetensors"


def nothing() -> None:
    """What nobody waits for."""


def save_gpt2(directory: Path) -> None:
    """A model whose layers are transposed, in float16."""
    save_tokenizer(directory)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=258)
    GPT2LMHeadModel(config).half().save_pretrained(directory)


def save_adapter(base: Path, into: Path, **knobs: Any) -> None:
    """An adapter that has learnt something: what it adds is of the size that some dozen steps lead to."""
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(1)
    adapted = adapt(hf, Lora.model_validate(knobs), r=R, alpha=2 * R, base=named(base))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.03)
            if "magnitude" in name:
                weight.mul_(1 + 0.03 * torch.randn_like(weight))
    adapter = Adapter(adapted, base)
    into.mkdir()
    adapter.write(adapter.weights(keep=True, tick=nothing), into)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of several kinds."""
    made = tmp_path_factory.mktemp("bases")
    save_tiny_model(made / "llama")
    save_tiny_model(made / "qwen2", family="qwen2", dtype="bfloat16")
    save_gpt2(made / "gpt2")
    return made


@pytest.fixture
def adapter(bases: Path, tmp_path: Path) -> Path:
    """An adapter of the first of them."""
    save_adapter(bases / "llama", tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("family", "knobs", "dtype"),
    [
        ("llama", {}, torch.bfloat16),
        ("llama", {"useDora": True}, torch.bfloat16),
        ("qwen2", {"useRslora": True, "targetModules": ["attention"]}, torch.bfloat16),
        ("gpt2", {}, torch.float16),
        ("gpt2", {"useDora": True}, torch.float16),
    ],
)
def test_the_merged_model_answers_as_model_and_adapter_do(
    bases: Path, tmp_path: Path, family: str, knobs: dict[str, Any], dtype: torch.dtype
) -> None:
    base, into = bases / family, tmp_path / "merged"
    save_adapter(base, tmp_path / "adapter", **knobs)
    into.mkdir()
    merge(base, tmp_path / "adapter", into, nothing)

    stored = load_file(into / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {dtype}
    assert stored.keys() == load_file(base / "model.safetensors").keys()
    assert json.loads((into / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    # In fp32 nothing but the rounding of the merged weights makes a difference.
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    both = PeftModel.from_pretrained(hf, tmp_path / "adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(into, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(into)
    chat = [{"role": "user", "content": "say it"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, found = both(ids).logits, merged(ids).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())
        options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
        answers: list[Any] = [model.generate(input_ids=ids, **options) for model in (both, merged)]
        assert torch.equal(*answers)


@pytest.mark.parametrize("times", [0, 2])
def test_an_adapter_that_is_not_merged_or_merged_twice_is_found_out(
    bases: Path, adapter: Path, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = adapters_merge._merged

    def wrong(adapted: PeftModel, tick: Any) -> Any:
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling = {name: times * scale for name, scale in layer.scaling.items()}
        return correct(adapted, tick)

    monkeypatch.setattr(adapters_merge, "_merged", wrong)
    before = contents(adapter)
    with pytest.raises(TrainerError, match="the merged model does not answer as model and adapter do"):
        merging.merge_into(bases / "llama", adapter, tmp_path / "merged", uid=None, facts={}, tick=nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert contents(adapter) == before


def test_weights_that_are_no_numbers_are_told_by_their_layer(
    bases: Path, adapter: Path, tmp_path: Path
) -> None:
    weights = load_file(adapter / WEIGHTS)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    weights[name][3, 0] = torch.nan
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(
        InvalidConfigurationError, match=r"^model\.layers\.1\.mlp\.up_proj has weights that are no"
    ):
        merge(bases / "llama", adapter, tmp_path, nothing)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("qwen2", r"k_proj.lora_A.weight is missing in the adapter, and \[4, 32\] in the model"),
        ("gpt2", "does not fit the model"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    bases: Path, adapter: Path, tmp_path: Path, family: str, said: str
) -> None:
    if family == "qwen2":
        weights = load_file(adapter / WEIGHTS)
        save_file({name: value for name, value in weights.items() if "k_proj" not in name}, adapter / WEIGHTS)
    with pytest.raises(InvalidConfigurationError, match=said):
        merge(bases / family, adapter, tmp_path, nothing)


def contents(directory: Path) -> dict[str, str]:
    """All files of a directory, by digests of what is in them."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.iterdir()
        if file.is_file()
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data, with a run named `trained` whose model was held in 4 bits."""
    made = tmp_path_factory.mktemp("merging")
    save_tiny_model(made / "model")
    save_chat_data(made / "train.jsonl", samples=SAMPLES)
    forked.train(config(made, "trained"))
    return made


def config(base: Path, name: str) -> RunConfig:
    """A run below a directory; all of them are the same run, which lies in several places."""
    made = gangs.config(base, name=name, learningRate=1e-2, numEpochs=1, effectiveBatchSize=4)
    knobs = {"r": R, "loadIn4Bit": True, "mergeAdapter": True}
    return made.model_copy(update={"method": "lora", "lora": Lora.model_validate(knobs), "uid": "uid-of-all"})


def copied(base: Path, name: str) -> RunConfig:
    """The trained run once more, somewhere else."""
    shutil.copytree(base / "trained", base / name)
    return config(base, name)


def expect_adapter_untouched(run: RunConfig) -> None:
    storage = Path(run.locations.storage)
    assert contents(storage / "output") == contents(storage.with_name("trained") / "output")


def test_a_run_is_merged_once_and_told(base: Path) -> None:
    run = copied(base, "good")
    storage = Path(run.locations.storage)
    done = mergings.merge_run(run)
    assert done.exit_code == 0, done.output
    report = done.report
    assert (report.attempt, report.stage, report.failure) == (names.MERGING, Stage.FINISHED, None)
    assert report.output is not None
    assert (report.output.path, report.output.format) == ("good/output", "adapter")
    assert report.output.merged is not None
    assert report.output.merged.path == "good/merged"
    assert report.output.merged.bytes == sum(
        record["bytes"] for record in files_of(storage / "merged").values()
    )
    assert gangs.kept_report(storage) == report
    assert (storage / "logs" / "attempt-merge" / "node-0.log").read_text() == done.output
    # What was held in 4 bits for training is not here.
    merged = AutoModelForCausalLM.from_pretrained(storage / "merged")
    assert merged.dtype == torch.bfloat16
    assert not hasattr(merged.config, "quantization_config")
    expect_adapter_untouched(run)

    before = (storage / "merged" / "model.safetensors").stat().st_mtime_ns
    again = mergings.merge_run(run)
    assert (again.exit_code, again.report.output) == (0, report.output)
    assert (storage / "merged" / "model.safetensors").stat().st_mtime_ns == before
    # The result of another adapter is not that of this one.
    manifest = storage / "merged" / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace(files_of(storage / "output")[WEIGHTS]["sha256"], "0" * 64)
    )
    anew = mergings.merge_run(run)
    assert (anew.exit_code, anew.report.output) == (0, report.output)
    assert (storage / "merged" / "model.safetensors").stat().st_mtime_ns > before


def files_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = gangs.manifest(directory)["files"]
    return found


@pytest.mark.parametrize("moment", [Moment.FILE, Moment.MANIFEST, Moment.RENAME, Moment.VISIBLE])
def test_killed_at_any_moment_it_is_merged_the_next_time(base: Path, moment: Moment) -> None:
    run = copied(base, f"killed-{moment.name.lower()}")
    storage = Path(run.locations.storage)
    killed = mergings.merge_run(run, Fault(storage, moment, "merged"))
    assert killed.exit_code == -signal.SIGKILL, killed.output
    assert (storage / "merged").exists() == (moment is Moment.VISIBLE)
    done = mergings.merge_run(run)
    assert done.exit_code == 0, done.output
    assert done.report.output is not None
    assert done.report.output.merged is not None
    assert not list(storage.glob("*.incomplete"))
    expect_adapter_untouched(run)


def test_asked_to_stop_it_leaves_nothing_half_done(base: Path) -> None:
    run = copied(base, "stopped")
    storage = Path(run.locations.storage)
    stopped = mergings.merge_run(run, Fault(storage, Moment.MANIFEST, "merged", number=signal.SIGTERM))
    assert stopped.exit_code == ExitCode.TERMINATED, stopped.output
    assert stopped.reason == "asked to stop before the adapter was merged"
    assert not list(storage.glob("merged*"))
    expect_adapter_untouched(run)


def test_a_damaged_adapter_is_refused_and_left_alone(base: Path) -> None:
    run = copied(base, "damaged")
    file = Path(run.locations.storage) / "output" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused = mergings.merge_run(run)
    assert refused.exit_code == ExitCode.INVALID_CONFIGURATION, refused.output
    assert 'spec.storage: the adapter in output of "damaged" on claim "runs"' in refused.reason
    assert "is damaged: a file has not the content" in refused.reason
    assert file.read_bytes() == content
    file.unlink()
    refused = mergings.merge_run(run)
    assert refused.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "has no complete adapter in output" in refused.reason
    assert not (file.parents[1] / "merged").exists()


def test_a_base_model_that_changed_is_refused(base: Path) -> None:
    run = copied(base, "changed")
    save_tiny_model(base / "other", seed=1)
    locations = run.locations.model_copy(update={"model": str(base / "other")})
    refused = mergings.merge_run(run.model_copy(update={"locations": locations}))
    assert refused.exit_code == ExitCode.INVALID_CONFIGURATION, refused.output
    assert "spec.model: the base model changed since the adapter was trained" in refused.reason
    expect_adapter_untouched(run)


def test_the_directory_of_another_run_is_left_alone(base: Path) -> None:
    run = copied(base, "mine").model_copy(update={"uid": "another"})
    refused = mergings.merge_run(run)
    assert refused.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "belongs to another run" in refused.reason
    assert not (Path(run.locations.storage) / "merged").exists()


@gangs.needs_mount
def test_a_full_volume_is_told_as_such(base: Path, tmp_path: Path) -> None:
    run = config(base, "full")
    volume, file, end = tmp_path / "volume", tmp_path / "run.json", tmp_path / "end"
    inside = gangs.small_volume(volume, "200k")
    locations = run.locations.model_copy(update={"storage": str(volume / "full")})
    file.write_text(run.model_copy(update={"locations": locations}).to_json())
    command = [sys.executable, "-m", "finetune_trainer", "merge", "--config", str(file)]
    script = 'cp -r "$0" "$1" && shift && exec "$@"'
    done = subprocess.run(
        [*inside, "sh", "-c", script, str(base / "trained"), str(volume / "full"), *command],
        env=os.environ | {names.ENV_TERMINATION_LOG: str(end)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.STORAGE_FULL, done.stdout + done.stderr
    failure = json.loads(end.read_text())["failure"]
    assert 'spec.storage: "full" on claim "runs"' in failure["message"]
    assert "is full (No space left on device)" in failure["message"]


def test_by_hand_any_adapter_is_merged_into_a_directory(bases: Path, adapter: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = (f"--model={bases / 'llama'}", f"--adapter={adapter}", f"--output={tmp_path / 'merged'}")
    done = mergings.merge(scratch, *options)
    assert done.exit_code == 0, done.output
    assert f"merged in {tmp_path / 'merged'}: " in done.output
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "merged", "scratch"]
    again = mergings.merge(scratch, *options)
    assert again.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "is not empty: name another directory" in again.output
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    pickled = mergings.merge(scratch, *options[:2], f"--output={tmp_path / 'other'}")
    assert pickled.exit_code == ExitCode.INVALID_CONFIGURATION
    assert f"has no {WEIGHTS}" in pickled.output
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--config is needed, or --model, --adapter and --output"),
        (("--config", "run.json", "--adapter", "a"), "--config and --adapter exclude one another"),
    ],
)
def test_what_the_command_line_does_not_take(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from finetune_trainer.main import main

    # What the command sets for its own process is not to stay in this one.
    with patch.dict(os.environ), pytest.raises(SystemExit) as ended:
        main(["merge", *options])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_local_run_ends_with_the_merged_model_or_says_what_there_is(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    save_tiny_model(folders.root / "models" / "tiny")
    save_chat_data(folders.root / "data" / "train.jsonl", samples=SAMPLES)
    hyperparameters = {"learningRate": 1e-2, "numEpochs": 1, "effectiveBatchSize": 8}
    job: dict[str, Any] = {
        "method": "lora",
        "lora": {"r": R, "mergeAdapter": True},
        "dataset": {
            "train": {"volume": {"claimName": "data", "path": "train.jsonl"}},
            "prepare": "Inline",
        },
        "hyperparameters": hyperparameters,
        "resources": {"nodes": 1, "gpusPerNode": 0},
    }
    ended = local.end(folders.start(**job))
    assert ended.exit_code == 0, ended.stderr
    status = ended.status
    assert (status["phase"], status["output"]["format"]) == ("Succeeded", "adapter")
    assert status["output"]["merged"]["path"] == f"{local.NAME}/merged"
    assert f"The adapter is in {folders.storage / 'output'}" in ended.stderr
    assert f"The merged model is in {folders.storage / 'merged'}" in ended.stderr
    told = [line[10:] for line in ended.stderr.splitlines() if "merge" in line.lower()]
    assert told.index(next(line for line in told if "is being merged" in line)) < told.index(
        next(line for line in told if "the merged model is in" in line)
    )
    AutoModelForCausalLM.from_pretrained(folders.storage / "merged")

    # The merging alone is to be done again, of what is no longer what was trained.
    shutil.rmtree(folders.storage / "merged")
    file = folders.storage / "output" / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    failed = local.end(folders.start(**job))
    assert failed.exit_code == 1
    assert failed.status["phase"] == "Failed"
    assert failed.status["output"]["format"] == "adapter"
    assert f'the adapter in output of "{local.NAME}" on claim "runs"' in failed.stderr
    assert "finetune-trainer merge --model DIR --adapter DIR --output DIR" in failed.stderr
    assert file.read_bytes() == content
