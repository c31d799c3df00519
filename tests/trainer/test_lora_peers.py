"""Adapters that are trained here are those that peft and the Trainer of transformers make of the same.

The same samples in the same steps, padded there and packed here, the same adapters to begin with, and the same
hyperparameters: the losses of all steps agree, and so do the weights that are saved.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)

from finetune_api.methods import Lora
from finetune_api.runconfig import RunConfig
from finetune_trainer.batches import Schedule
from tiny import save_chat_data, save_tiny_model
from trainer import forked
from trainer.gangs import config, metrics
from trainer.plain import Result, number, prepared

# The last step has fewer samples than the others, and so has its last padded batch.
SAMPLES, BATCH, PADDED, STEPS = 93, 8, 4, 12
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-2,
    "effectiveBatchSize": BATCH,
    "numEpochs": 1,
    "maxSeqLen": 128,
    # A few micro-batches to a step.
    "maxTokensPerGpu": 200,
    "weightDecay": 0.1,
    "warmupSteps": 3,
    "maxGradNorm": 0.1,
    # Large enough for rounding not to decide what a weight without a gradient worth mentioning does.
    "eps": 1e-5,
}
# They are below 1e-6 and 1e-7 where the order of additions alone differs.
LOSSES, WEIGHTS = 1e-5, 1e-6
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("lora-peers")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


@pytest.mark.parametrize(
    ("stated", "theirs"),
    [
        pytest.param({}, {"r": 16, "lora_alpha": 32, "target_modules": ALL_LINEAR}, id="all-layers"),
        pytest.param(
            {"r": 4, "alpha": 4, "targetModules": ["attention"]},
            {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION},
            id="attention",
        ),
        pytest.param(
            {"r": 4, "useRslora": True},
            {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL_LINEAR},
            id="rslora",
        ),
        pytest.param(
            {"r": 4, "useDora": True},
            {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ALL_LINEAR},
            id="dora",
        ),
        pytest.param(
            {"r": 4, "loadIn4Bit": True},
            {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR},
            id="in-4-bits",
        ),
    ],
)
def test_adapters_are_those_of_peft_and_trainer(
    base: Path, request: pytest.FixtureRequest, stated: dict[str, Any], theirs: dict[str, Any]
) -> None:
    run = config(base, name=request.node.callspec.id, every_epoch=False, **HYPERPARAMETERS)
    run = run.model_copy(update={"method": "lora", "lora": Lora.model_validate(stated)})
    found, expected = _ours(run), _of_trainer(run, theirs)
    assert len(found.losses) == STEPS
    # What is compared is training: every step clips, and the loss falls.
    assert min(expected.grad_norms) > 1.5 * run.hyperparameters.max_grad_norm
    assert expected.losses[-1] < expected.losses[0] - 0.2
    assert found.losses == pytest.approx(expected.losses, abs=LOSSES, rel=0)
    assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)
    assert found.rates == pytest.approx(expected.rates)
    torch.testing.assert_close(found.weights, expected.weights, atol=WEIGHTS, rtol=0)


def _ours(run: RunConfig) -> Result:
    forked.train(run)
    storage = Path(run.locations.storage)
    steps = metrics(storage)
    return Result(
        [number(step.loss) for step in steps],
        [number(step.grad_norm) for step in steps],
        [number(step.learning_rate) for step in steps],
        load_file(storage / "output" / "adapter_model.safetensors"),
    )


def _of_trainer(run: RunConfig, lora: dict[str, Any]) -> Result:
    """What a script with peft and Trainer makes of the samples that ours has prepared."""
    settings, samples = run.hyperparameters, prepared(run)
    order = Schedule(len(samples), BATCH, settings.seed).order(0)
    rows = [dict(zip(("input_ids", "labels"), samples[int(index)], strict=True)) for index in order]
    model = AutoModelForCausalLM.from_pretrained(
        run.locations.model,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(**NF4) if run.recipe.lora.load_in_4bit else None,
    )
    # What the adapters begin with.
    set_seed(settings.seed)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    assert settings.learning_rate is not None
    output = Path(run.locations.storage) / "theirs"
    trainer = Trainer(
        model=adapted,
        args=TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=PADDED,
            gradient_accumulation_steps=BATCH // PADDED,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.lr_scheduler,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            adam_epsilon=settings.eps,
            max_grad_norm=settings.max_grad_norm,
            use_cpu=True,
            bf16=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(run.locations.model)),
    )
    trainer.train()
    trainer.save_model(str(output))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Result(
        [entry["loss"] for entry in logged],
        [entry["grad_norm"] for entry in logged],
        [entry["learning_rate"] for entry in logged],
        load_file(output / "adapter_model.safetensors"),
    )
