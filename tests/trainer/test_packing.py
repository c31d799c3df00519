"""Packed samples: no sample sees another, and the loss is that of each sample alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_api.memory.phases import LOSS_CHUNK, LOSS_SLICE
from finetune_trainer import attention, loss, model
from finetune_trainer.attention import PER_SAMPLE, Choice, Kernel, choose
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.inputs import assemble
from finetune_trainer.loss import Head, summed_cross_entropy
from finetune_trainer.model import TrainableModel
from finetune_trainer.prepare.arrow import Part, Samples, SampleWriter
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
GEMMA = {"sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8}
# What is special in each: grouped queries; biases; norms of queries; sliding windows, in all layers and in every
# second; soft caps and scales of logits; joint projections; learned positions.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    "gemma2": GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": 5.0},
    "gemma3_text": GEMMA | {"sliding_window_pattern": 2},
    "granite": {"logits_scaling": 3.0},
    "phi3": {"sliding_window": 6},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
# In use in every second layer at least.
WINDOW: dict[str, Any] = {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 1}
QWEN2_MOE = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
# Some alike, and some of those side by side.
LENGTHS = [5, 12, 12, 21, 1, 12]


def build(family: str, **extra: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**SIZES, **FAMILIES.get(family, {}), **extra})
    hf: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=PER_SAMPLE
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


def check_against_each_alone(ours: TrainableModel) -> None:
    """Logits and gradients of packed samples are those of each alone, by the model's own plain attention."""
    ids, places = packed()
    loss_at = torch.arange(sum(LENGTHS)) % 3 > 0
    loss_at[torch.tensor(LENGTHS).cumsum(0) - 1] = False  # nothing follows that could be predicted
    [predicting] = loss_at.nonzero(as_tuple=True)
    ours(ids, *places, predicting, ids[0, predicting + 1]).backward()
    found = ours.head().logits(ours.hidden(ids, *places)), gradients(ours)

    ours.zero_grad()
    ours.hf.set_attn_implementation("eager")
    alone = [ours.hf(part, use_cache=False).logits[0] for part in ids.split(LENGTHS, dim=1)]
    chosen = torch.cat(alone)[predicting]
    functional.cross_entropy(chosen, ids[0, predicting + 1], reduction="sum").backward()
    expected = torch.cat(alone)[None], gradients(ours)

    assert expected[0].abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def gradients(ours: TrainableModel) -> dict[str, Tensor]:
    return {name: w.grad.clone() for name, w in ours.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_samples_are_what_each_is_alone(family: str) -> None:
    check_against_each_alone(TrainableModel(build(family)))


def documented(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's varlen_attn, which needs a GPU, is documented to do."""
    assert cu_seq_q is cu_seq_k
    assert cu_seq_q.dtype == torch.int32
    lengths = cu_seq_q.diff()
    assert max_q == max_k == lengths.max()
    sample, (left, right) = torch.arange(len(lengths)).repeat_interleave(lengths), window_size
    distance = torch.arange(len(query))[:, None] - torch.arange(len(key))
    sees = (sample[:, None] == sample) & (distance >= -right)
    if left >= 0:
        sees &= distance <= left
    q, k, v = (states.transpose(0, 1)[None] for states in (query, key, value))
    output = functional.scaled_dot_product_attention(q, k, v, sees, scale=scale, enable_gqa=enable_gqa)
    return output[0].transpose(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_for_all_samples_at_once_gets_what_it_is_documented_to_take(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "choose", lambda *_: Choice(Kernel.VARIABLE_LENGTH, "the test wants it"))
    monkeypatch.setattr(attention, "varlen_attn", documented)
    check_against_each_alone(TrainableModel(build(family)))


class Grouped(torch.nn.Module):
    """What transformers asks an attention layer for."""

    def __init__(self, queries_per_key: int) -> None:
        super().__init__()
        self.num_key_value_groups = queries_per_key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sliding_window", [None, 6])
@pytest.mark.parametrize(("kv_heads", "head_size"), [(4, 64), (2, 128), (1, 256)])
def test_both_kernels_agree_on_a_gpu(sliding_window: int | None, kv_heads: int, head_size: int) -> None:
    torch.manual_seed(0)
    _, (_, lengths, boundaries) = packed()
    query, key, value = (
        torch.randn(
            1, heads, sum(lengths), head_size, device="cuda", dtype=torch.bfloat16, requires_grad=True
        )
        for heads in (4, kv_heads, kv_heads)
    )

    def outcome(output: Tensor) -> list[Tensor]:
        return [output, *torch.autograd.grad(output.float().square().sum(), [query, key, value])]

    scale = head_size**-0.5
    module = Grouped(4 // kv_heads)
    by_sample = attention._sample_by_sample(
        module, query, key, value, lengths, sliding_window, {"scaling": scale}
    )
    at_once = attention._all_at_once(query, key, value, lengths, boundaries.to("cuda"), sliding_window, scale)
    torch.testing.assert_close(outcome(at_once), outcome(by_sample), atol=0.03, rtol=0.03)


def test_flash_attention_where_the_gpu_and_the_model_allow_it() -> None:
    options = {
        "scaling": 0.1,
        "dropout": 0.0,
        "softcap": None,
        "position_ids": torch.zeros(3),
        "is_causal": True,
    }
    assert choose((9, 0), torch.bfloat16, 128, options).kernel is Kernel.VARIABLE_LENGTH


@pytest.mark.parametrize(
    ("capability", "dtype", "head_size", "options", "reason"),
    [
        (None, torch.bfloat16, 128, {}, "no GPU"),
        ((7, 5), torch.float16, 128, {}, "7.5; FlashAttention needs 8.0"),
        ((9, 0), torch.float32, 128, {}, "torch.float32"),
        ((9, 0), torch.bfloat16, 300, {}, "heads of 300"),
        ((9, 0), torch.bfloat16, 36, {}, "heads of 36"),
        ((9, 0), torch.bfloat16, 128, {"dropout": 0.1}, "no dropout"),
        ((9, 0), torch.bfloat16, 128, {"softcap": 50.0}, "softcap"),
        ((9, 0), torch.bfloat16, 128, {"s_aux": torch.zeros(4)}, "s_aux"),
        ((9, 0), torch.bfloat16, 128, {"position_bias": torch.zeros(1, 4, 3, 3)}, "position_bias"),
        ((9, 0), torch.bfloat16, 128, {"is_causal": False}, "not causal"),
    ],
)
def test_whatever_it_does_not_do_goes_sample_by_sample(
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    options: dict[str, Any],
    reason: str,
) -> None:
    choice = choose(capability, dtype, head_size, options)
    assert choice.kernel is Kernel.SAMPLE_BY_SAMPLE
    assert reason in choice.reason


def test_samples_of_equal_length_side_by_side_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def noting(module: torch.nn.Module, query: Tensor, *others: Any, **options: Any) -> Any:
        shapes.append((query.shape[0], query.shape[2]))
        return sdpa_attention_forward(module, query, *others, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", noting)
    ours = TrainableModel(build("llama", num_hidden_layers=1))
    ids, places = packed()
    ours.hidden(ids, *places)
    assert shapes == [(1, 5), (2, 12), (1, 21), (1, 1), (1, 12)]


def test_loss_and_gradients_are_those_of_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOSS_CHUNK", {4: 4})
    ours = TrainableModel(build("qwen2"))
    ids, places = packed()
    predicting = torch.tensor([0, 1, 3, 6, 7, 8, 9, 20, 24, 30, 37])
    targets = ids[0, predicting + 1]

    def gradients_of(total: Tensor) -> dict[str, Tensor]:
        ours.zero_grad()
        (total * 0.37).backward()
        return gradients(ours)

    plain = functional.cross_entropy(
        ours.head().logits(ours.hidden(ids, *places))[0, predicting], targets, reduction="sum"
    )
    expected = gradients_of(plain)
    total = ours(ids, *places, predicting, targets)
    torch.testing.assert_close(total, plain.detach(), atol=1e-5, rtol=1e-6)
    found = gradients_of(total)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    """Samples of LENGTHS with loss on their second half."""
    halves = []
    for number, ids in enumerate(packed()[0][0].split(LENGTHS)):
        half = len(ids) // 2
        halves.append((number, Encoded(ids.tolist(), [MASKED] * half + ids[half:].tolist())))
    with SampleWriter(tmp_path, "halves") as writer:
        writer.write(Part.of(halves))
    return Samples(tmp_path)


def test_the_loss_of_a_micro_batch_is_the_sum_over_its_samples_alone(samples: Samples) -> None:
    ours = TrainableModel(build("llama"))
    with torch.no_grad():
        together = ours(**assemble(samples, [3, 1, 2, 0, 4, 5]))
        ours.hf.set_attn_implementation("eager")
        alone = []
        for input_ids, labels in (samples[number] for number in range(len(samples))):
            # transformers' own loss: the mean over shifted labels.
            ids, targets = (
                torch.tensor(values.copy(), dtype=torch.long)[None] for values in (input_ids, labels)
            )
            count = (targets[0, 1:] != MASKED).sum()
            alone.append(ours.hf(ids, labels=targets, use_cache=False).loss * count if count else 0)
    assert samples.loss_tokens.tolist() == [3, 6, 6, 11, 0, 6]
    torch.testing.assert_close(together, torch.as_tensor(sum(alone)), atol=1e-4, rtol=1e-5)


def test_positions_begin_anew_with_each_sample(samples: Samples) -> None:
    positions = assemble(samples, [0, 4, 3])["position_ids"]
    assert positions.tolist() == [[*range(5), *range(1), *range(21)]]


def test_a_micro_batch_without_a_sample_is_one_token_without_loss(samples: Samples) -> None:
    inputs = assemble(samples, [])
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
    width, vocabulary, tokens = 8, 512, 3 * LOSS_CHUNK[4] + 1
    weight = torch.randn(vocabulary, width, requires_grad=True)
    hidden = torch.randn(tokens, width, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        summed_cross_entropy(hidden, torch.zeros(tokens, dtype=torch.long), Head(weight)).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest == 4 * LOSS_CHUNK[4] * vocabulary


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_kind_of_head_has_the_gradients_of_plain_cross_entropy(
    scale: float, cap: float | None, bias: bool, frozen: bool
) -> None:
    tokens = LOSS_CHUNK[4] + 7
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, generator=draw, dtype=torch.float32).requires_grad_()
    weight = torch.randn(32, 8, generator=draw).requires_grad_(not frozen)
    offset = torch.randn(32, generator=draw).requires_grad_(not frozen) if bias else None
    targets = torch.randint(32, (tokens,), generator=draw)
    head = Head(weight, offset, scale, cap)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None and leaf.requires_grad]
    plain = functional.cross_entropy(head.logits(hidden), targets, reduction="sum")
    expected = torch.autograd.grad(plain * 0.37, leaves)
    ours = summed_cross_entropy(hidden, targets, head)
    found = torch.autograd.grad(ours * 0.37, leaves)
    torch.testing.assert_close(ours, plain.detach())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_in_bf16_chunks_are_added_up_in_fp32() -> None:
    tokens, vocabulary = 64 * LOSS_CHUNK[2], LOSS_SLICE + 952
    hidden = torch.ones(tokens, 2).bfloat16()
    # Every token wants the same word, so every chunk adds the same to its gradient.
    weight = torch.zeros(vocabulary, 2).bfloat16().requires_grad_()
    summed_cross_entropy(hidden, torch.zeros(tokens, dtype=torch.long), Head(weight)).backward()
    assert weight.grad is not None
    exact = torch.full((vocabulary, 2), tokens / vocabulary)
    exact[0] -= tokens
    torch.testing.assert_close(weight.grad.float(), exact, rtol=2**-8, atol=0)


def test_recomputing_activations_changes_nothing() -> None:
    ours = TrainableModel(build("llama")).train()
    ids, places = packed()
    predicting = torch.arange(4)
    outcomes = []
    for _ in range(2):
        ours.zero_grad()
        ours(ids, *places, predicting, ids[0, predicting + 1]).backward()
        outcomes.append(gradients(ours))
        ours.hf.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(*outcomes, atol=0, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_can_be_packed_pass_the_proof(family: str) -> None:
    model.prove(build(family))


# Phi-3.5-MoE has a window as long as its context; most Qwen models have one that is not in use.
@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 100}),
        ("gemma3_text", {"sliding_window": 100}),
        ("qwen2", WINDOW),
        ("qwen2", {"use_sliding_window": False}),
        ("cohere2", {"sliding_window": 100, "sliding_window_pattern": 2}),
        ("phimoe", {"num_local_experts": 4, "sliding_window": SIZES["max_position_embeddings"]}),
        ("qwen2_moe", QWEN2_MOE | {"use_sliding_window": False}),
    ],
)
def test_windows_that_can_be_trained_pass_the_proof_and_are_left_as_they_were(
    family: str, extra: dict[str, Any]
) -> None:
    hf = build(family, **extra)
    before = windows(hf)
    model.prove(hf)
    assert windows(hf) == before


def windows(hf: PreTrainedModel) -> list[Any]:
    """What a model and its layers hold of windows."""
    parts = [hf.config, *hf.modules()]
    return [getattr(part, "sliding_window", None) for part in parts]


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma3_text"])
def test_a_window_that_our_attention_did_not_keep_to_would_be_refused(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_window", lambda *_: None)
    hf = build(family, **WINDOW)
    before = windows(hf)
    with pytest.raises(InvalidConfigurationError, match=r"window of its attention \(sliding_window: 100 in"):
        model.prove(hf)
    assert windows(hf) == before


@pytest.mark.parametrize(
    ("family", "extra", "said"),
    [
        ("mamba", {}, "logits differ"),
        ("gpt_oss", {"num_local_experts": 4, "head_dim": 8}, "logits differ"),
        ("gemma2", {"attn_logit_softcapping": 50.0}, "softcap"),
        ("phimoe", {"num_local_experts": 4, "sliding_window": 16}, "longer than the window"),
        ("qwen2_moe", QWEN2_MOE | WINDOW, "longer than the window"),
        ("doge", {"sliding_window": 16}, "no mask"),
    ],
)
def test_families_that_would_be_trained_wrongly_are_refused(
    family: str, extra: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidConfigurationError, match=said) as caught:
        model.prove(build(family, **extra))
    assert str(caught.value).startswith("spec.model: ")
