"""What a run leaves beside its result: a card that tells how it was made, and a manifest that makes it again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import Tensor

from finetune_api import names
from finetune_api.runconfig import Locations, RunConfig, run_config
from finetune_api.spec import FineTuneJob
from finetune_operator.cli import manifests
from finetune_trainer.sources import fetching
from tiny import save_chat_data, save_tiny_model
from trainer import forked, mergings
from world import manifest

BESIDE = {names.MODEL_CARD_FILE, names.MANIFEST_FILE, names.LOSS_PLOT_FILE}
SAMPLES = 60
VOLUME = {"claimName": "data", "path": "general.jsonl"}
# What is not stated the guide chooses; with its learning rate, so few steps would change little.
SPEC: dict[str, Any] = {
    "dataset": {"train": {"volume": VOLUME | {"path": "train.jsonl"}}, "validationSplit": 0.2},
    "hyperparameters": {"learningRate": 1e-3, "effectiveBatchSize": 8},
    "evaluation": {"sets": [{"name": "general", "volume": VOLUME}], "everySteps": 3},
    "resources": {"nodes": 1, "gpusPerNode": 0},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("reproducing")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    save_chat_data(base / "general.jsonl", samples=8, seed=1)
    return base


def config(base: Path, job: FineTuneJob, uid: str) -> RunConfig:
    """The run of a job whose volumes are below `base`."""
    named = job.metadata.model_copy(update={"uid": uid})
    data = {name: [str(base / f"{name}.jsonl")] for name in job.spec.data_sources}
    locations = Locations(model=str(base / "model"), data=data, storage=str(base / uid / job.storage_path))
    return run_config(job.model_copy(update={"metadata": named}), locations, None)


def trained(base: Path, job: FineTuneJob, uid: str) -> Path:
    """The output of a job's run."""
    run = config(base, job, uid)
    storage = Path(run.locations.storage)
    storage.mkdir(parents=True)
    # What the preparation does.
    fetching.look_at(run, lambda: None)
    forked.train(run)
    return storage / names.OUTPUT_DIR


def weights(output: Path) -> dict[str, Tensor]:
    [file] = output.glob("*.safetensors")
    return load_file(file)


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, weight in one.items() if not torch.equal(weight, other[name])]


@pytest.mark.parametrize(
    "method",
    [
        {"method": "sft"},
        {"method": "osft"},
        {"method": "lora", "lora": {"dropout": 0.1, "mergeAdapter": True}},
    ],
)
def test_the_manifest_beside_an_output_makes_the_same_weights_to_the_bit(
    base: Path, method: dict[str, Any]
) -> None:
    job = FineTuneJob.model_validate(manifest(method["method"], **SPEC, **method))
    first = trained(base, job, "first")
    assert {file.name for file in first.iterdir()} >= BESIDE
    # It is read, and found to be valid, as by `finetune validate`.
    [again] = manifests.read_valid([str(first / names.MANIFEST_FILE)])
    assert again.storage_path != job.storage_path
    second = trained(base, again, "second")
    assert differing(weights(first), weights(second)) == []
    # And it is no matter of course: another seed makes others.
    stated = again.spec.hyperparameters.model_copy(update={"seed": 7, "max_steps": 2})
    elsewhere = again.spec.storage.model_copy(update={"path": f"{again.storage_path}-other"})
    spec = again.spec.model_copy(update={"hyperparameters": stated, "storage": elsewhere})
    other = trained(base, again.model_copy(update={"spec": spec}), "other")
    assert differing(weights(first), weights(other)) != []


def test_an_adapter_and_the_model_that_it_is_merged_into_each_have_a_card_of_their_own(base: Path) -> None:
    spec = SPEC | {
        "method": "lora",
        "lora": {"r": 4, "mergeAdapter": True},
        "checkpoints": {"deliverBest": True},
    }
    job = FineTuneJob.model_validate(manifest("merged", **spec))
    output = trained(base, job, "merging")
    end = mergings.merge_run(config(base, job, "merging"))
    assert end.exit_code == 0, end.output
    merged = output.with_name(names.MERGED_DIR)
    told = {directory: ModelCard.load(directory / names.MODEL_CARD_FILE) for directory in (output, merged)}
    assert [card.data.get("library_name") for card in told.values()] == ["peft", "transformers"]
    for directory, card in told.items():
        assert {file.name for file in directory.iterdir()} >= BESIDE
        assert "| `validation` |" in card.text
    [one, other] = ((directory / names.MANIFEST_FILE).read_text() for directory in told)
    assert one == other
    # peft writes a card of its own, of which nothing is left.
    assert "More Information Needed" not in told[output].content
