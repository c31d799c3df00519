"""Packed samples: no sample sees another, and the loss is that of each sample alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from finetune_api.memory.phases import LOSS_CHUNK
from finetune_trainer import loss, model
from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.errors import InvalidConfigurationError
from finetune_trainer.inputs import assemble
from finetune_trainer.loss import summed_cross_entropy
from finetune_trainer.model import TrainableModel
from finetune_trainer.prepare.arrow import Samples, SampleWriter
from finetune_trainer.prepare.encode import MASKED, Encoded

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What is special in each: grouped queries; biases; sliding windows, in all layers and in every second; scaled logits.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 6},
    "gemma3_text": {
        "sliding_window": 6,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window_pattern": 2,
    },
    "granite": {"logits_scaling": 3.0},
}
LENGTHS = [5, 21, 1, 12]


def build(family: str, attention: str = PER_SAMPLE, **extra: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**SIZES, **FAMILIES.get(family, {}), **extra})
    hf: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    # Large enough for an attention that went wrong to be seen.
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    hf.eval()
    return hf


def packed(lengths: list[int] = LENGTHS) -> tuple[Tensor, tuple[Tensor, list[int], Tensor]]:
    """Token ids of samples in one row; and where they lie: positions, lengths, boundaries."""
    torch.manual_seed(1)
    ids = torch.randint(0, SIZES["vocab_size"], (1, sum(lengths)))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return ids, (positions, lengths, torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_packed_samples_are_those_of_each_alone(family: str) -> None:
    ours = TrainableModel(build(family))
    ids, places = packed()
    with torch.no_grad():
        found = ours.head(ours.hidden(ids, *places))
        ours.hf.set_attn_implementation("eager")
        alone = [ours.hf(part, use_cache=False).logits for part in ids.split(LENGTHS, dim=1)]
    expected = torch.cat(alone, dim=1)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_are_those_of_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOSS_CHUNK", 4)
    ours = TrainableModel(build("qwen2"))
    ids, places = packed()
    predicting = torch.tensor([0, 1, 3, 6, 7, 8, 9, 20, 24, 30, 37])
    targets = ids[0, predicting + 1]

    def gradients(total: Tensor) -> dict[str, Tensor]:
        ours.zero_grad()
        (total * 0.37).backward()
        return {name: w.grad.clone() for name, w in ours.named_parameters() if w.grad is not None}

    plain = torch.nn.functional.cross_entropy(
        ours.head(ours.hidden(ids, *places))[0, predicting], targets, reduction="sum"
    )
    expected = gradients(plain)
    total = ours(ids, *places, predicting, targets)
    torch.testing.assert_close(total, plain.detach(), atol=1e-5, rtol=1e-6)
    found = gradients(total)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Samples of LENGTHS with loss on their second half."""
    with SampleWriter(tmp_path / "samples.arrow") as writer:
        for number, ids in enumerate(packed()[0][0].split(LENGTHS)):
            half = len(ids) // 2
            labels = [MASKED] * half + ids[half:].tolist()
            writer.write(Encoded(ids.tolist(), labels), sample=number)
    return Samples(tmp_path / "samples.arrow")


def test_the_loss_of_a_micro_batch_is_the_sum_over_its_samples_alone(samples: Samples) -> None:
    ours = TrainableModel(build("llama"))
    with torch.no_grad():
        together = ours(**assemble(samples, [3, 1, 2, 0], torch.device("cpu")))
        ours.hf.set_attn_implementation("eager")
        alone = []
        for input_ids, labels in (samples[number] for number in range(len(samples))):
            # transformers' own loss: the mean over shifted labels.
            ids, targets = (
                torch.tensor(values.copy(), dtype=torch.long)[None] for values in (input_ids, labels)
            )
            count = (targets[0, 1:] != MASKED).sum()
            alone.append(ours.hf(ids, labels=targets, use_cache=False).loss * count if count else 0)
    assert samples.loss_tokens.tolist() == [3, 11, 0, 6]
    torch.testing.assert_close(together, torch.as_tensor(sum(alone)), atol=1e-4, rtol=1e-5)


def test_positions_begin_anew_with_each_sample(samples: Samples) -> None:
    positions = assemble(samples, [0, 2, 3], torch.device("cpu"))["position_ids"]
    assert positions.tolist() == [[*range(5), *range(1), *range(12)]]


def test_a_micro_batch_without_a_sample_is_one_token_without_loss(samples: Samples) -> None:
    inputs = assemble(samples, [], torch.device("cpu"))
    assert (inputs["input_ids"].shape, inputs["sample_lengths"]) == ((1, 1), [1])
    assert inputs["predicting"].numel() == inputs["targets"].numel() == 0


def test_a_micro_batch_without_loss_has_zero_gradients_everywhere() -> None:
    ours = TrainableModel(build("llama"))
    nothing = torch.zeros(0, dtype=torch.long)
    ids, places = packed([1])
    total = ours(ids, *places, nothing, nothing)
    total.backward()
    assert total.item() == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in ours.parameters())


def test_logits_are_never_held_for_more_than_a_chunk() -> None:
    width, vocabulary, tokens = 8, 32, 3 * LOSS_CHUNK + 1
    weight = torch.randn(vocabulary, width, requires_grad=True)
    seen: list[int] = []

    def head(hidden: Tensor) -> Tensor:
        seen.append(hidden.shape[0])
        return hidden @ weight.T

    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    hidden = torch.randn(tokens, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        summed_cross_entropy(hidden, torch.zeros(tokens, dtype=torch.long), head, [weight]).backward()
    assert seen == [LOSS_CHUNK] * 3 + [1]
    assert max(kept) <= LOSS_CHUNK * vocabulary


def test_recomputing_activations_changes_nothing() -> None:
    ours = TrainableModel(build("llama")).train()
    ids, places = packed()
    predicting = torch.arange(4)

    def gradients() -> list[Tensor]:
        ours.zero_grad()
        ours(ids, *places, predicting, ids[0, predicting + 1]).backward()
        return [weight.grad.clone() for weight in ours.parameters() if weight.grad is not None]

    expected = gradients()
    ours.hf.activation_checkpointing_enable({"use_reentrant": False})
    for found, gradient in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, gradient, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_can_be_packed_pass_the_proof(family: str) -> None:
    model._prove(build(family))


@pytest.mark.parametrize(
    ("family", "extra", "said"),
    [
        ("mamba", {}, "logits differ"),
        ("gpt_oss", {"num_local_experts": 4, "head_dim": 8}, "logits differ"),
        ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8}, "softcap"),
    ],
)
def test_families_that_would_be_trained_wrongly_are_refused(
    family: str, extra: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidConfigurationError, match=said) as caught:
        model._prove(build(family, **extra))
    assert str(caught.value).startswith("spec.model: ")
