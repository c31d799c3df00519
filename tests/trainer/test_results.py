"""What a run leaves to people: a model that other programs load and use as they do the base model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from finetune_trainer.checks import check_model
from finetune_trainer.ends.errors import InvalidConfigurationError, TrainerError
from finetune_trainer.model import load, load_config, skeleton
from finetune_trainer.results import WholeModel
from tiny import save_tiny_model, save_tokenizer


def save_result(hf: PreTrainedModel, base: Path, into: Path) -> dict[str, torch.Tensor]:
    """Write a model, made of that in `base`, as the result of a run; its weights as they lie there."""
    into.mkdir()
    result = WholeModel(hf, base)
    result.write(result.weights(keep=True, tick=lambda: None), into)
    return load_file(into / "model.safetensors")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A model as older ones lie on the hub: masks among the weights, and no type of these in its configuration."""
    base = tmp_path / "model"
    save_tokenizer(base)
    config = GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=258)
    GPT2LMHeadModel(config).half().save_pretrained(base)
    weights = load_file(base / "model.safetensors")
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 8, 8).bool().tril() for layer in range(2)}
    # Files of one each, for the order of what is in a file is that of sizes.
    save_file(masks, base / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file(weights, base / "model-00002-of-00002.safetensors", metadata={"format": "pt"})
    (base / "model.safetensors").unlink()
    places = dict.fromkeys(masks, "model-00001-of-00002.safetensors")
    places |= dict.fromkeys(weights, "model-00002-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": places}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    told = json.loads((base / "config.json").read_text())
    del told["dtype"]
    (base / "config.json").write_text(json.dumps(told))
    return base


def test_masks_among_the_weights_do_not_decide_the_type_of_all(gpt2: Path, tmp_path: Path) -> None:
    hf = load(gpt2)
    written = save_result(hf, gpt2, tmp_path / "output")
    assert {weight.dtype for weight in written.values()} == {torch.float16}
    assert torch.equal(written["transformer.wte.weight"].float(), hf.get_parameter("transformer.wte.weight"))


def test_a_model_without_any_numbers_is_told_apart(gpt2: Path) -> None:
    (gpt2 / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        InvalidConfigurationError, match=r"spec\.model: its safetensors hold no floating-point"
    ):
        WholeModel(skeleton(load_config(gpt2)), gpt2)


def test_it_is_used_as_the_base_model_is(tmp_path: Path) -> None:
    """On GPUs, and on several processes, the model is made of its configuration, which knows nothing of that."""
    base, output = tmp_path / "model", tmp_path / "output"
    save_tiny_model(base)
    use = {"eos_token_id": [258, 257], "do_sample": True, "temperature": 0.7, "top_p": 0.8}
    (base / "generation_config.json").write_text(json.dumps(use))
    (base / "preprocessor_config.json").write_text("{}")
    save_result(skeleton(load_config(base)).to_empty(device="cpu"), base, output)
    assert json.loads((output / "generation_config.json").read_text()) == use
    assert (output / "preprocessor_config.json").read_text() == "{}"


def test_what_goes_into_a_result_is_tried_before_training(tmp_path: Path) -> None:
    """Hours later it would cost the result."""
    save_tiny_model(tmp_path)
    check_model(tmp_path, "spec.model", weights=True)
    (tmp_path / "generation_config.json").mkdir()
    with pytest.raises(TrainerError, match=r"spec\.model cannot be read"):
        check_model(tmp_path, "spec.model", weights=True)
