"""Memory, trained weights and checkpoint sizes, against sums done by hand and against what must hold for any model."""

import json
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from finetune_api.architecture import Architecture, from_config
from finetune_api.checkpoint_sizes import checkpoint_sizes
from finetune_api.hyperparameters import MAX_TOKENS_PER_GPU, Hyperparameters
from finetune_api.memory import Memory, Mode, decomposition_peak, largest_token_budget, leanest
from finetune_api.memory import memory as memory_in
from finetune_api.memory.adapters import base_bytes
from finetune_api.memory.cases import Case
from finetune_api.memory.modes import modes
from finetune_api.memory.subspaces import Subspaces
from finetune_api.methods import Lora, Osft
from finetune_api.recipe import Recipe
from finetune_api.spec import Checkpoints
from finetune_api.trained_weights import factored, targets, trainable_parameters, unfrozen_rank
from finetune_trainer.subspaces.deal import deal, decomposition_cost

GIB = 2**30
CONFIGS = Path(__file__).parent.parent / "configs"
SFT = Recipe("sft", Hyperparameters(), Osft(), Lora(), Checkpoints(), nodes=1, gpus_per_node=1)
OSFT = replace(SFT, method="osft")
LORA = replace(SFT, method="lora")
TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
}
# Llama 3.1 8B.
LLAMA_8B = TINY | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def memory(
    recipe: Recipe, architecture: Architecture, mode: Mode | None = None, *, tokens: int, longest: int
) -> Memory:
    """In the leanest mode, unless told."""
    return memory_in(recipe, architecture, mode or leanest(recipe), tokens=tokens, longest=longest)


def model(**fields: Any) -> Architecture:
    return from_config(TINY | fields)


def osft(ratio: float | None = None, *patterns: str, **fields: Any) -> Recipe:
    return replace(OSFT, osft=Osft(unfreeze_rank_ratio=ratio, target_patterns=list(patterns)), **fields)


def lora(recipe: Recipe = LORA, **knobs: Any) -> Recipe:
    return replace(recipe, lora=Lora(**knobs))


def on_cpu(recipe: Recipe, processes: int = 1) -> Recipe:
    return replace(recipe, nodes=processes, gpus_per_node=0)


@pytest.mark.parametrize(
    ("outputs", "inputs", "ratio", "unfrozen"),
    [
        # In binary 10 x (1 - 0.9) is 0.9999999999999998, and so on.
        (10, 10, 0.9, 9),
        (640, 640, 0.8, 512),
        (640, 640, 0.9, 576),
        (2560, 2560, 0.8, 2048),
        (2560, 2560, 0.9, 2304),
        (5120, 5120, 0.8, 4096),
        (5120, 5120, 0.9, 4608),
        (100, 40, 0.5, 20),
        (7, 9, 0.5, 4),
        (8, 8, 1.0, 8),
        (8, 8, 1e-17, 1),
        (1, 5, 0.5, 1),
    ],
)
def test_directions_that_osft_trains(outputs: int, inputs: int, ratio: float, unfrozen: int) -> None:
    assert unfrozen_rank(outputs, inputs, ratio) == unfrozen


@given(st.integers(1, 20000), st.integers(1, 1000))
def test_the_ratio_is_the_decimal_number_that_was_written(rank: int, thousandths: int) -> None:
    frozen = min(floor(rank * (1 - Fraction(thousandths, 1000))), rank - 1)
    assert unfrozen_rank(rank, rank + 1, thousandths / 1000) == rank - frozen >= 1


# A block: q 8x8, k and v 4x8, o 8x8, gate and up 16x8, down 8x16, two norms; then the embedding, the head and a norm.
BLOCK = 64 + 32 + 32 + 64 + 128 + 128 + 128
WHOLE = 2 * (BLOCK + 16) + 2 * 32 * 8 + 8


def test_sft_trains_everything() -> None:
    assert trainable_parameters(SFT, model()) == WHOLE


def test_osft_trains_some_directions_and_all_that_is_no_target() -> None:
    # u (N + M + 1) for q and o (R = 8), k and v (R = 4), gate, up and down (R = 8), of which half are trained.
    factors = 2 * 4 * 17 + 2 * 2 * 13 + 3 * 4 * 25
    assert trainable_parameters(osft(0.5), model()) == WHOLE - 2 * BLOCK + 2 * factors
    assert trainable_parameters(osft(), model()) == trainable_parameters(osft(0.5), model())


def test_osft_trains_biases_along() -> None:
    biases = 2 * (8 + 4 + 4)
    qwen = model(model_type="qwen2", tie_word_embeddings=False)
    assert trainable_parameters(osft(0.5), qwen) == trainable_parameters(osft(0.5), model()) + biases


def test_patterns_of_osft_are_searched_in_full_module_names() -> None:
    only_mlp = osft(0.5, r"mlp\.")
    assert trainable_parameters(only_mlp, model()) == WHOLE - 2 * 3 * 128 + 2 * 3 * 4 * 25
    assert [
        (linear.name, count) for linear, count in targets(osft(0.5, r"layers\.1\..*[qk]_proj$"), model())
    ] == [
        ("self_attn.q_proj", 1),
        ("self_attn.k_proj", 1),
    ]
    gpt2 = from_config(
        {"model_type": "gpt2", "n_embd": 8, "n_layer": 3, "n_head": 2, "vocab_size": 32, "n_positions": 16}
    )
    assert [count for _, count in targets(osft(0.5, r"^transformer\.h\.\d+\.attn\.c_attn$"), gpt2)] == [3]
    assert trainable_parameters(osft(0.5, "nothing"), model()) == WHOLE


def test_lora_trains_its_adapters_alone() -> None:
    # r (N + M) for q, k, v, o, gate, up, down.
    assert trainable_parameters(lora(r=3), model()) == 2 * 3 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert trainable_parameters(lora(), model()) == trainable_parameters(lora(r=16), model())
    # DoRA: N more for each.
    assert trainable_parameters(lora(r=3, use_dora=True), model()) == (
        trainable_parameters(lora(r=3), model()) + 2 * (8 + 4 + 4 + 8 + 16 + 16 + 8)
    )


@pytest.mark.parametrize(
    ("patterns", "sides"),
    [
        (["q_proj", "v_proj"], 2 * (16 + 12)),
        (["self_attn.v_proj"], 2 * 12),
        (["model.layers.1.mlp.up_proj"], 24),
        (["attention"], 2 * (16 + 12 + 12 + 16)),
        (["allLinear"], 2 * (16 + 12 + 12 + 16 + 24 + 24 + 24)),
        (["attention", "down_proj"], 2 * (16 + 12 + 12 + 16 + 24)),
        (["(q|k)_proj"], 2 * (16 + 12)),
        ([r"layers\.0\..*"], 16 + 12 + 12 + 16 + 24 + 24 + 24),
        # From a dot to the end.
        (["q.proj"], 2 * 16),
        (["proj", "self_attn", "up", "_proj"], 0),
    ],
    ids=str,
)
def test_layers_that_get_adapters(patterns: list[str], sides: int) -> None:
    assert trainable_parameters(lora(r=3, target_modules=patterns), model()) == 3 * sides


def test_one_process_on_the_cpu_holds_everything_in_fp32() -> None:
    found = memory(on_cpu(SFT), model(), tokens=4, longest=4)
    assert (found.weights, found.optimizer) == (4 * WHOLE, 8 * WHOLE)
    assert found.gradients >= 4 * WHOLE


def test_a_state_is_copied_in_main_memory_before_it_is_written() -> None:
    """Weights and moments, each process its part. On GPUs that is elsewhere."""
    assert memory(on_cpu(SFT), model(), tokens=4, longest=4).saving == 12 * WHOLE
    shared = memory(on_cpu(SFT, 2), model(), tokens=4, longest=4)
    assert shared.saving == 6 * WHOLE
    parts = (shared.weights, shared.gradients, shared.optimizer, shared.activations, shared.logits)
    assert shared.estimate == sum(parts) + shared.framework + shared.saving
    assert memory(SFT, model(), tokens=4, longest=4).saving == 0


# All directions of q and o, k and v, gate, up and down.
FACTORS = 2 * (2 * 8 * 17 + 2 * 4 * 13 + 3 * 8 * 25)


def test_osft_has_the_model_of_sft_and_all_factors_at_any_ratio() -> None:
    """On one CPU. As many tokens as make the end of the backward pass the peak, where nothing else is held."""
    whole = memory(on_cpu(SFT), model(vocab_size=4000), tokens=64, longest=64)
    for ratio in (0.1, 0.5, 1.0):
        recipe = on_cpu(osft(ratio))
        found = memory(recipe, model(vocab_size=4000), tokens=64, longest=64)
        assert found.weights == whole.weights + 4 * FACTORS
        assert (found.gradients, found.activations, found.logits) == (
            whole.gradients,
            whole.activations,
            whole.logits,
        )
        trained = trainable_parameters(recipe, model(vocab_size=4000))
        assert (found.optimizer, found.saving) == (8 * trained, 12 * trained)


def test_gradients_of_factors_take_the_place_of_the_matrices_gradients() -> None:
    """Where all directions are trained they have more numbers, so the update is the peak of a step with few tokens."""
    found = memory(on_cpu(osft(1.0)), model(), tokens=1, longest=1)
    trained = WHOLE - 2 * BLOCK + FACTORS
    assert (found.weights, found.gradients, found.optimizer) == (
        4 * (WHOLE + FACTORS),
        4 * trained,
        8 * trained,
    )


def test_processes_divide_the_model_and_the_factors_of_osft() -> None:
    eight = from_config(LLAMA_8B)
    few, many = (
        memory(osft(0.5, nodes=nodes, gpus_per_node=8), eight, tokens=16384, longest=4096) for nodes in (1, 2)
    )
    factors = checkpoint_sizes(OSFT, eight).decompositions
    divided = 8 * eight.parameters + factors + 8 * trainable_parameters(OSFT, eight)
    assert few.optimizer == trainable_parameters(OSFT, eight) == 2 * many.optimizer
    assert few.estimate - many.estimate == pytest.approx(1.05 * divided * (1 / 8 - 1 / 16), rel=0.01)


@pytest.mark.parametrize("processes", [2, 3, 4, 8, 16, 32, 64, 256])
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-1.5b", "llama-3.1-8b", "phi-4"])
def test_the_fullest_hand_has_at_most_what_the_high_estimate_says(name: str, processes: int) -> None:
    """Of whole matrices, as the trainer deals them out."""
    shape = from_config(json.loads((CONFIGS / f"{name}.json").read_text()))
    matrices = [each for each in factored(OSFT, shape) for _ in range(each.count)]
    hands = deal([decomposition_cost(each.outputs, each.inputs) for each in matrices], processes)
    fullest = max(sum(matrices[number].factors for number in hand) for hand in hands)
    low, estimate, high = (Subspaces.of(replace(OSFT, nodes=processes), shape, case).factors for case in Case)
    assert low <= estimate <= fullest <= high
    if processes >= len(matrices):
        assert low == fullest


def test_activations_and_logits_by_hand() -> None:
    """The loss of many tokens on one CPU: three copies of the residual stream's norms, and so on, all fp32."""
    tokens = 3000
    found = memory(on_cpu(SFT), model(vocab_size=4000), tokens=tokens, longest=tokens)
    norms = 2 * (8 + 8)
    attention = 8 + 4 + 4 + 8
    activation = 3 * 16
    inputs = 8 + 8 + 8 + 16
    heads = 2
    ends = 2 * 8 + 3 * 8 + 2 * 4 + 4 * 2
    assert found.activations == 4 * tokens * (2 * (norms + attention + activation + inputs + heads) + ends)
    head = 4000 * 8
    assert found.logits == 4 * (head + 128 * 4000)


def test_activations_are_kept_or_only_the_inputs_of_blocks() -> None:
    """Of 32 blocks with 16384 tokens in bf16, and one block more, that is being repeated."""
    inputs = 16384 * 32 * 4096 * 2
    eight_gpus = replace(SFT, gpus_per_node=8)
    found = memory(eight_gpus, from_config(LLAMA_8B), tokens=16384, longest=4096)
    assert inputs < found.activations < 2.5 * inputs
    kept = memory(eight_gpus, from_config(LLAMA_8B), Mode(False, False), tokens=16384, longest=4096)
    # Of each token and block, bytes: the norms' inputs in fp32 and normalised, queries, keys, values and their result,
    # three of the gate, the inputs of the linear layers, and the logarithms of the heads' sums.
    norms = 2 * 4096 * (4 + 2)
    attention = 2 * (2 * 4096 + 2 * 1024)
    layers = 2 * (4096 + 4096 + 4096 + 14336)
    block = norms + attention + 2 * 3 * 14336 + layers + 4 * 32
    assert kept.activations == pytest.approx(16384 * 32 * block, rel=0.02)


def test_whole_gradients_are_fp32_and_not_divided() -> None:
    eight, recipe = from_config(LLAMA_8B), replace(SFT, gpus_per_node=8)
    once, each = (
        memory(recipe, eight, Mode(True, locally), tokens=16384, longest=4096) for locally in (True, False)
    )
    # 5 % is lost by fragmentation.
    assert once.estimate - each.estimate == pytest.approx(1.05 * 4 * eight.parameters * 7 / 8, rel=0.05)


def test_fsdp_divides_weights_gradients_and_moments() -> None:
    eight = from_config(LLAMA_8B)
    few, many = (
        memory(replace(SFT, nodes=nodes, gpus_per_node=8), eight, tokens=16384, longest=4096)
        for nodes in (1, 2)
    )
    assert (few.optimizer, many.optimizer) == (eight.parameters, eight.parameters // 2)
    # 16 bytes of each weight are divided; what is gathered, and all else, is the same. 5 % is lost by fragmentation.
    assert few.estimate - many.estimate == pytest.approx(
        1.05 * 16 * eight.parameters * (1 / 8 - 1 / 16), rel=0.01
    )


def test_lora_copies_the_frozen_model_to_every_gpu() -> None:
    eight = from_config(LLAMA_8B)
    alone = memory(LORA, eight, tokens=1024, longest=1024)
    shared = memory(replace(LORA, nodes=2, gpus_per_node=4), eight, tokens=1024, longest=1024)
    assert shared.weights == alone.weights == 2 * eight.parameters + 4 * trainable_parameters(LORA, eight)
    # Gradients are copied to be exchanged, when activations, which are much more, are gone.
    assert shared.gradients == alone.gradients == 4 * trainable_parameters(LORA, eight)
    wide = lora(replace(LORA, nodes=2), r=64)
    adapters = trainable_parameters(wide, eight)
    found = memory(wide, eight, tokens=16, longest=16)
    assert (found.gradients, found.activations) == (8 * adapters, 0)


@pytest.mark.parametrize(("gpus", "most"), [(4, 8), (3, 11), (64, 1)])
def test_a_split_model_lies_on_all_gpus_of_a_node(gpus: int, most: int) -> None:
    """Whole blocks on each GPU, the embedding on the first one, and the head on the last."""
    eight = from_config(LLAMA_8B)
    split = lora(replace(LORA, gpus_per_node=gpus), enable_model_splitting=True)
    found, whole = (memory(recipe, eight, tokens=1024, longest=1024) for recipe in (split, LORA))
    root = 2 * eight.vocabulary * eight.hidden_size
    blocks = whole.weights - 2 * root
    norms = 2 * eight.other_parameters
    assert blocks * most / 32 < found.weights < blocks * most / 32 + root + norms
    assert found.optimizer == whole.optimizer * most // 32
    assert found.activations < whole.activations


def test_a_large_embedding_weighs_on_the_gpu_that_has_it() -> None:
    """The head is the same matrix, and lies there, too."""
    tied = model(tie_word_embeddings=True, vocab_size=100_000, num_hidden_layers=4)
    split = lora(replace(LORA, gpus_per_node=4), enable_model_splitting=True)
    assert memory(split, tied, tokens=4, longest=4).weights > 2 * 100_000 * 8


def test_bits_of_the_frozen_model() -> None:
    eight = from_config(LLAMA_8B)
    linears = sum(linear.parameters for linear in eight.linears)
    rest = 2 * (eight.parameters - linears)
    assert base_bytes(LORA, eight) == 2 * eight.parameters
    per_weight = (base_bytes(lora(load_in_4bit=True), eight) - rest) / linears
    assert 8 * per_weight == pytest.approx(4.127, abs=0.001)
    per_weight = (base_bytes(lora(load_in_8bit=True), eight) - rest) / linears
    assert 8 * per_weight == pytest.approx(8, rel=0.001)


def test_figures_that_people_know() -> None:
    """8B: 16-bit lora within 24 GiB, 4 bits within 12; sft on 8 GPUs of 80 GiB, but not on one."""
    eight = from_config(LLAMA_8B)

    def needs(recipe: Recipe) -> float:
        return memory(recipe, eight, tokens=2048, longest=2048).estimate / GIB

    assert 16 < needs(LORA) < 22
    assert 6 < needs(lora(load_in_4bit=True)) < 11
    assert 120 < needs(SFT) < 160
    assert 20 < needs(replace(SFT, gpus_per_node=8)) < 40


def test_sizes_of_checkpoints() -> None:
    eight = from_config(LLAMA_8B)
    assert eight.parameters == 8_030_261_248
    found = checkpoint_sizes(SFT, eight)
    assert (found.weights, found.resume) == (2 * eight.parameters, 12 * eight.parameters)
    # The guide: about 108 GB.
    assert found.full_state == pytest.approx(108e9, rel=0.05)
    adapters = trainable_parameters(LORA, eight)
    found = checkpoint_sizes(LORA, eight)
    assert (found.weights, found.resume, found.full_state) == (4 * adapters, 12 * adapters, 16 * adapters)
    assert found.merged == 0
    # In 16 bits, whatever the base model is stored in.
    merging = lora(load_in_4bit=True, merge_adapter=True)
    assert checkpoint_sizes(merging, model(dtype="float32")).merged == 2 * WHOLE


def test_what_osft_freezes_is_in_no_state_but_lies_once_on_the_volume() -> None:
    found = checkpoint_sizes(osft(0.5), model())
    assert found.weights == 2 * WHOLE
    assert found.resume == 12 * trainable_parameters(osft(0.5), model())
    assert found.decompositions == checkpoint_sizes(osft(0.1), model()).decompositions == 4 * FACTORS
    assert checkpoint_sizes(osft(0.5, "q_proj"), model()).decompositions == 4 * 2 * 8 * 17
    assert (
        checkpoint_sizes(SFT, model()).decompositions == checkpoint_sizes(LORA, model()).decompositions == 0
    )


def test_the_decomposition_of_the_largest_target() -> None:
    # gate_proj: 16 x 8. The matrix twice, U and V, S, and the workspace.
    assert decomposition_peak(OSFT, model()) == 4 * (2 * 128 + 8 * (16 + 8) + 8 + 4 * 64 + 7 * 8 + 8 * 8)
    assert decomposition_peak(osft(0.5, "k_proj"), model()) < decomposition_peak(OSFT, model())
    assert decomposition_peak(osft(0.5, "nothing"), model()) == 0
    assert decomposition_peak(SFT, model()) == decomposition_peak(LORA, model()) == 0


def test_decomposing_the_last_of_the_largest_with_the_factors_of_all_others() -> None:
    """gate, up and down have 128 numbers, and factors of 200. The next one is on its way, where others have it, too."""
    peak = decomposition_peak(OSFT, model())
    alone = [Subspaces.of(OSFT, model(), case).decomposing for case in Case]
    assert alone == [peak - 4 * 128, *[peak - 4 * 128 + 4 * (FACTORS - 200)] * 2]
    low, estimate, high = (Subspaces.of(replace(OSFT, nodes=2), model(), case).decomposing for case in Case)
    assert low == peak
    assert estimate == peak + 4 * (2 * 128 + FACTORS // 2 - 200)
    assert high == peak + 4 * (3 * 128 + FACTORS // 2)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Models of real proportions."""
    family = draw(st.sampled_from(["llama", "qwen2", "qwen3", "gemma", "gemma3_text", "phi", "phi3", "gpt2"]))
    heads, head = draw(st.sampled_from([4, 8, 16, 64])), draw(st.sampled_from([64, 128]))
    hidden, layers = heads * head, draw(st.integers(2, 80))
    vocabulary = draw(st.integers(1000, 200_000))
    if family == "gpt2":
        return from_config(
            {"model_type": family, "n_embd": hidden, "n_layer": layers, "n_head": heads}
            | {"vocab_size": vocabulary, "n_positions": 1024}
        )
    return model(
        model_type=family,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=draw(st.sampled_from([1, 2, heads])),
        head_dim=head,
        intermediate_size=draw(st.integers(1, 4)) * hidden,
        vocab_size=vocabulary,
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any method on any hardware."""
    bits = draw(st.sampled_from([{}, {"load_in_4bit": True}, {"load_in_8bit": True}]))
    gpus = draw(st.sampled_from([0, 1, 2, 8]))
    return Recipe(
        draw(st.sampled_from(["sft", "osft", "lora"])),
        Hyperparameters(),
        Osft(
            unfreeze_rank_ratio=draw(st.floats(0.01, 1)),
            target_patterns=draw(st.sampled_from([[], ["mlp"], ["^nothing$"]])),
        ),
        Lora(
            r=draw(st.integers(1, 256)),
            dropout=draw(st.sampled_from([0.0, 0.1])),
            target_modules=draw(st.sampled_from([None, ["q_proj", "c_attn"]])),
            enable_model_splitting=gpus > 1 and draw(st.booleans()),
            **bits,
        ),
        Checkpoints(),
        nodes=1,
        gpus_per_node=gpus,
    )


lengths = st.integers(1, 100_000)


def all_of(recipe: Recipe, architecture: Architecture, tokens: int, longest: int) -> tuple[int, ...]:
    """Low, estimate and high in every mode, from the fastest to the leanest."""
    found = [all_in(mode, recipe, architecture, tokens, longest) for mode in modes(recipe)]
    return tuple(size for sizes in found for size in sizes)


def all_in(
    mode: Mode, recipe: Recipe, architecture: Architecture, tokens: int, longest: int
) -> tuple[int, int, int]:
    found = memory(recipe, architecture, mode, tokens=tokens, longest=min(longest, tokens))
    assert min(found.weights, found.gradients, found.optimizer, found.activations, found.logits) >= 0
    return found.low, found.estimate, found.high


def at_most(smaller: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in zip(smaller, larger, strict=True))


@given(recipes(), architectures(), lengths, lengths)
def test_low_estimate_and_high_are_in_order(
    recipe: Recipe, shape: Architecture, tokens: int, longest: int
) -> None:
    for mode in modes(recipe):
        low, estimate, high = all_in(mode, recipe, shape, tokens, longest)
        assert low <= estimate <= high


@given(recipes(), architectures(), lengths, lengths)
def test_leaner_modes_need_less(recipe: Recipe, shape: Architecture, tokens: int, longest: int) -> None:
    """Whatever the other choice is.

    Not where a split model leaves one block to a process: that block is repeated whole, and its input is kept besides.
    """
    assume(shape.layers > recipe.split_over)
    found = {mode: all_in(mode, recipe, shape, tokens, longest) for mode in modes(recipe)}
    for mode, sizes in found.items():
        for leaner in (replace(mode, activation_checkpointing=True), replace(mode, accumulate_locally=False)):
            if leaner in found:
                assert at_most(found[leaner], sizes)


@given(recipes(), architectures(), lengths, lengths, lengths)
def test_more_tokens_and_longer_samples_never_need_less(
    recipe: Recipe, shape: Architecture, tokens: int, more: int, longest: int
) -> None:
    assert at_most(all_of(recipe, shape, tokens, longest), all_of(recipe, shape, tokens + more, longest))
    assert at_most(all_of(recipe, shape, tokens, 1), all_of(recipe, shape, tokens, longest))


@given(recipes(), architectures(), lengths, st.floats(0.01, 1), st.floats(0.01, 1))
def test_more_trained_directions_never_need_less(
    recipe: Recipe, shape: Architecture, tokens: int, ratio: float, other: float
) -> None:
    few, many = (
        replace(recipe, method="osft", osft=recipe.osft.model_copy(update={"unfreeze_rank_ratio": each}))
        for each in sorted([ratio, other])
    )
    assert trainable_parameters(few, shape) <= trainable_parameters(many, shape)
    assert at_most(all_of(few, shape, tokens, tokens), all_of(many, shape, tokens, tokens))


@given(recipes(), architectures(), lengths, st.floats(0.5, 1))
def test_osft_never_needs_less_than_sft_from_one_half_on(
    recipe: Recipe, shape: Architecture, tokens: int, ratio: float
) -> None:
    """Below, the moments that it spares of wide matrices can be more than their factors. Without GPUs the copy of its
    state is smaller, too."""
    assume(recipe.on_gpu)
    sft, subspaces = (
        replace(recipe, method=method, osft=recipe.osft.model_copy(update={"unfreeze_rank_ratio": ratio}))
        for method in ("sft", "osft")
    )
    assert at_most(all_of(sft, shape, tokens, tokens), all_of(subspaces, shape, tokens, tokens))


@given(recipes(), architectures(), lengths, st.integers(1, 256), st.integers(1, 256))
def test_larger_adapters_never_need_less(
    recipe: Recipe, shape: Architecture, tokens: int, r: int, more: int
) -> None:
    small, large = (
        replace(recipe, method="lora", lora=recipe.lora.model_copy(update={"r": each}))
        for each in (r, r + more)
    )
    assert at_most(all_of(small, shape, tokens, tokens), all_of(large, shape, tokens, tokens))


@given(recipes(), architectures(), lengths, st.integers(1, 80))
def test_larger_models_never_need_less(recipe: Recipe, shape: Architecture, tokens: int, more: int) -> None:
    linears = tuple(replace(linear, count=linear.count + more) for linear in shape.linears)
    deeper = replace(shape, layers=shape.layers + more, linears=linears)
    assert at_most(all_of(recipe, shape, tokens, tokens), all_of(recipe, deeper, tokens, tokens))


@given(
    architectures(),
    lengths,
    st.sampled_from([SFT, OSFT]),
    st.booleans(),
    st.integers(2, 64),
    st.integers(1, 64),
)
def test_more_processes_never_need_more(
    shape: Architecture, tokens: int, recipe: Recipe, gpus: bool, processes: int, more: int
) -> None:
    few, many = (
        replace(recipe, nodes=nodes, gpus_per_node=int(gpus)) for nodes in (processes, processes + more)
    )
    assert at_most(all_of(many, shape, tokens, tokens), all_of(few, shape, tokens, tokens))
    if gpus:
        alone = all_in(leanest(recipe), recipe, shape, tokens, tokens)
        assert at_most(all_in(leanest(few), few, shape, tokens, tokens), alone)


@given(architectures(), lengths, st.integers(1, 8))
def test_fewer_bits_need_less(shape: Architecture, tokens: int, gpus: int) -> None:
    recipe = replace(LORA, gpus_per_node=gpus)
    sizes = [
        all_in(leanest(recipe), lora(recipe, **bits), shape, tokens, tokens)
        for bits in ({"load_in_4bit": True}, {"load_in_8bit": True}, {})
    ]
    assert [size[1] for size in sizes] == sorted({size[1] for size in sizes})


@settings(max_examples=50)
@given(recipes(), architectures(), lengths, st.integers(1, 200))
def test_the_largest_budget_is_the_largest_that_fits(
    recipe: Recipe, shape: Architecture, longest: int, gibibytes: int
) -> None:
    limit = gibibytes * GIB

    def estimate(tokens: int) -> int:
        return memory(recipe, shape, tokens=tokens, longest=longest).estimate

    budget = largest_token_budget(recipe, shape, leanest(recipe), longest=longest, limit=limit)
    if budget is None:
        assert estimate(longest) > limit
        return
    assert longest <= budget <= max(longest, MAX_TOKENS_PER_GPU)
    assert estimate(budget) <= limit
    assert budget == MAX_TOKENS_PER_GPU or estimate(budget + 1) > limit
