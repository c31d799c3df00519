"""Shapes and parameter counts of models, from hand-written configs of public ones, and guesses from their names."""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.architecture import (
    Architecture,
    ArchitectureError,
    Linear,
    from_config,
    named_size,
    typical,
)
from finetune_api.architecture.families import FAMILIES

CONFIGS = Path(__file__).parents[1] / "configs"

# As the model cards and the headers of the weight files have them.
PARAMETERS = {
    "gemma-2-9b": 9_241_705_984,
    "gemma-2b": 2_506_172_416,
    "gemma-3-1b": 999_885_952,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neo-125m": 125_198_592,
    "gpt2": 124_439_808,
    "granite-3.1-8b": 8_170_848_256,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b-v0.3": 7_248_023_552,
    "opt-125m": 125_239_296,
    "phi-2": 2_779_683_840,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
}
# config.json files whose weights are stored in 4 bytes: two do not tell, as was usual then.
IN_FLOAT32 = {"gemma-2-9b", "gpt-j-6b", "gpt-neo-125m", "gpt2"}


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a public model, with some fields changed."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config | changes


def without(name: str, field: str) -> dict[str, Any]:
    """The config.json of a public model, with a field missing."""
    config = config_of(name)
    del config[field]
    return config


def test_every_config_and_every_family_is_here() -> None:
    names = {path.stem for path in CONFIGS.glob("*.json")}
    assert names == set(PARAMETERS)
    assert {config_of(name)["model_type"] for name in names} == set(FAMILIES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_public_models_have_their_published_number_of_parameters(name: str) -> None:
    model = from_config(config_of(name))
    assert model.parameters == PARAMETERS[name]
    assert model.stored_bytes == (4 if name in IN_FLOAT32 else 2)


def test_a_llama_in_full() -> None:
    assert from_config(config_of("llama-3.1-8b")) == Architecture(
        model_type="llama",
        hidden_size=4096,
        layers=32,
        attention_heads=32,
        kv_heads=8,
        head_size=128,
        intermediate_size=14336,
        vocabulary=128256,
        context_length=131072,
        tied_embeddings=False,
        blocks="model.layers",
        linears=(
            Linear("self_attn.q_proj", 4096, 4096, 32, bias=False),
            Linear("self_attn.k_proj", 1024, 4096, 32, bias=False),
            Linear("self_attn.v_proj", 1024, 4096, 32, bias=False),
            Linear("self_attn.o_proj", 4096, 4096, 32, bias=False),
            Linear("mlp.gate_proj", 14336, 4096, 32, bias=False),
            Linear("mlp.up_proj", 14336, 4096, 32, bias=False),
            Linear("mlp.down_proj", 4096, 14336, 32, bias=False),
        ),
        embedding_parameters=128256 * 4096,
        head_parameters=128256 * 4096,
        other_parameters=65 * 4096,
        stored_bytes=2,
    )


def test_a_linear_layer_counts_its_biases() -> None:
    assert Linear("self_attn.k_proj", 128, 896, 24, bias=True).parameters == 24 * (128 * 896 + 128)


def test_the_rank_is_at_most_the_shorter_side() -> None:
    assert Linear("self_attn.k_proj", 128, 896, 24, bias=True).rank == 128
    assert Linear("mlp.up_proj", 4864, 896, 24, bias=False).rank == 896


def test_outputs_come_first_however_the_matrix_is_stored() -> None:
    c_fc = from_config(config_of("gpt2")).linears[2]
    assert (c_fc.name, c_fc.outputs, c_fc.inputs) == ("mlp.c_fc", 3072, 768)


@pytest.mark.parametrize(
    ("field", "dtype", "stored"), [("dtype", "float16", 2), ("torch_dtype", "float32", 4)]
)
def test_the_dtype_has_two_names(field: str, dtype: str, stored: int) -> None:
    config = without("llama-3.1-8b", "torch_dtype") | {field: dtype}
    assert from_config(config).stored_bytes == stored


def test_a_model_may_say_nothing_about_its_context() -> None:
    assert from_config(without("llama-3.1-8b", "max_position_embeddings")).context_length is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (without("llama-3.1-8b", "hidden_size"), ["hidden_size: missing", "complete file"]),
        (config_of("llama-3.1-8b", hidden_size=None), ["hidden_size: missing"]),
        (config_of("llama-3.1-8b", hidden_size="4096"), ["hidden_size: '4096' is not a whole number"]),
        (config_of("llama-3.1-8b", num_hidden_layers=0), ["num_hidden_layers: 0 is not"]),
        (config_of("llama-3.1-8b", vocab_size=True), ["vocab_size: True is not"]),
        (config_of("llama-3.1-8b", vocab_size=2**31), ["vocab_size: 2147483648 is not"]),
        (config_of("llama-3.1-8b", head_dim=128.0), ["head_dim: 128.0 is not"]),
        (
            config_of("llama-3.1-8b", hidden_size=4097),
            ["hidden_size: 4097", "num_attention_heads, which is 32"],
        ),
        (config_of("llama-3.1-8b", num_key_value_heads=5), ["num_key_value_heads: 5 does not divide"]),
        (config_of("llama-3.1-8b", tie_word_embeddings=None), ["tie_word_embeddings: None is neither"]),
        (config_of("llama-3.1-8b", attention_bias="no"), ["attention_bias: 'no' is neither"]),
        (config_of("llama-3.1-8b", max_position_embeddings="8k"), ["max_position_embeddings: '8k' is not"]),
        (
            config_of("llama-3.1-8b", torch_dtype="float8_e4m3fn"),
            ["torch_dtype: 'float8_e4m3fn'", "bfloat16"],
        ),
        (config_of("llama-3.1-8b", dtype=16), ["dtype: 16 is not one of"]),
        (config_of("llama-3.1-8b", dtype=["bfloat16"]), ["dtype: ['bfloat16'] is not one of"]),
        (config_of("llama-3.1-8b", dtype=""), ["dtype: '' is not one of"]),
        (
            config_of("llama-3.1-8b", quantization_config={"bits": 4}),
            ["quantization_config", "original model"],
        ),
        (without("gpt2", "n_positions"), ["n_positions: missing"]),
        (config_of("gpt2", add_cross_attention=True), ["add_cross_attention", "only where it is false"]),
        (
            config_of("opt-125m", do_layer_norm_before=False),
            ["do_layer_norm_before", "only where it is true"],
        ),
        (
            config_of("opt-125m", word_embed_proj_dim=512),
            ["word_embed_proj_dim: 512", "hidden_size, which is 768"],
        ),
        ({}, ["model_type: missing", "beside the model's weights"]),
        ({"model_type": ["llama"]}, ["model_type: missing"]),
        ({"model_type": "mamba"}, ["'mamba'", "not known", "maxTokensPerGpu", "llama", "qwen3"]),
        ({"model_type": "mixtral"}, ["'mixtral'", "mixtures of experts", "qwen3"]),
        ({"model_type": "qwen3_moe"}, ["'qwen3_moe'", "mixtures of experts"]),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, ["'deepseek_v3'", "mixtures of experts"]),
        ([], ["must hold an object"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_what_is_wrong_is_named(config: Any, words: list[str]) -> None:
    with pytest.raises(ArchitectureError) as error:
        from_config(config)
    for word in words:
        assert word in str(error.value)


ANY_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text("a1.", max_size=3),
    st.just([]),
    st.just({"a": 1}),
)
FIELDS = sorted(
    {field for name in PARAMETERS for field in config_of(name)} | {"head_dim", "enable_bias", "n_inner"}
)
CHANGES = st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | st.integers(1, 64), max_size=4)


@given(st.sampled_from(sorted(PARAMETERS)), CHANGES, st.sets(st.sampled_from(FIELDS), max_size=2))
def test_any_config_is_read_or_refused(name: str, changes: dict[str, Any], missing: set[str]) -> None:
    config = {key: value for key, value in config_of(name, **changes).items() if key not in missing}
    with suppress(ArchitectureError):
        assert from_config(config).parameters > 0


@given(st.floats(math.log(10**7), math.log(5 * 10**11)).map(lambda x: round(math.exp(x))))
def test_a_typical_model_is_of_the_size_asked_for(parameters: int) -> None:
    model = typical(parameters)
    assert abs(model.parameters / parameters - 1) < 0.01
    assert model.attention_heads % model.kv_heads == 0
    assert model.attention_heads * model.head_size == model.hidden_size
    # Of a shape that people build.
    assert 0.8 < model.intermediate_size / model.hidden_size < 7.5
    assert 10 <= model.layers <= 140


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"])
def test_a_known_model_is_typical_of_its_size(name: str) -> None:
    model, known = typical(PARAMETERS[name]), from_config(config_of(name))
    assert model.linears == known.linears
    assert model.parameters == known.parameters


@pytest.mark.parametrize("parameters", [-1, 0, 1, 10**5, 10**13])
def test_sizes_out_of_range_have_a_shape_all_the_same(parameters: int) -> None:
    assert typical(parameters).parameters > 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen2.5-1.5B-Instruct", 1_500_000_000),
        ("qwen2.5-0.5b", 500_000_000),
        ("smollm2-135m", 135_000_000),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_700_000_000),
        ("Llama-3.1-8B", 8_000_000_000),
        ("meta-llama/Llama-3.1-405B", 405_000_000_000),
        ("llama_3_8b_4bit", 8_000_000_000),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_000_000_000),
        ("Phi-3-mini-128k-instruct-3.8b", 3_800_000_000),
        ("base/llama-3-70B/main", 70_000_000_000),
        ("distilled-from-70b/llama-8b", 8_000_000_000),
        ("8b/llama-3-8B", 8_000_000_000),
        ("7b", 7_000_000_000),
        ("models--Qwen--Qwen2.5-0.5B/snapshots/060db6499f32faf8b98477b0a26969ef7d8b9987", 500_000_000),
        ("llama-3.3-70b-instruct-2b-draft", None),
        ("DeepSeek-70B-to-8B", None),
        ("mixtral-8x7b", None),
        ("mixtral-8x7b/main", None),
        ("Mixtral-8x22B-v0.1", None),
        ("Qwen3-30B-A3B", None),
        ("Llama-4-Scout-17B-16E", None),
        ("OLMoE-1B", None),
        ("gemma-3n-E2B-it", None),
        ("gpt2", None),
        ("phi-3-mini", None),
        ("llama-v2.7b", None),
        ("llama-4bit", None),
        ("0b", None),
        ("", None),
    ],
)
def test_only_a_size_that_the_name_plainly_tells_counts(name: str, size: int | None) -> None:
    assert named_size(name) == size


@given(st.text() | st.from_regex(r"[a-z]{0,3}[-/][0-9.]{1,8}[bBmM]([-/][0-9]{1,5}[bx])?"))
def test_any_name_tells_a_size_or_none(name: str) -> None:
    size = named_size(name)
    assert size is None or size > 0
