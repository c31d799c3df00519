"""Rules about osft's ratio and patterns, and about lora's adapters."""

from typing import Any

import pytest

from advice import HUGE, LARGE, MIDDLE, SMALL, data, gpus, model, named, recipe, told
from finetune_api import guide
from finetune_api.facts import ModelFacts, Severity
from finetune_api.guide.choices import directions
from finetune_api.plan import review

PROJECTIONS = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"


def ratio(value: float) -> dict[str, Any]:
    return {"osft": {"unfreezeRankRatio": value}}


def about(prefix: str, said: dict[str, str]) -> set[str]:
    return {rule for rule in said if rule.startswith(prefix)}


def test_the_default_ratio_is_one_half_for_every_size() -> None:
    for facts in (SMALL, HUGE, None):
        chosen = guide.unfreeze_rank_ratio(recipe("osft"), facts)
        assert chosen is not None
        assert chosen.value == 0.5
    assert guide.unfreeze_rank_ratio(recipe("sft"), SMALL) is None


@pytest.mark.parametrize(
    ("hidden", "unfrozen", "of_width"),
    [
        # Qwen 1.5B, ~1.4k wide: ~700 directions. 7B, ~3.8k wide: ~1,900.
        (1400, "700", "1,400"),
        (3800, "1,900", "3,800"),
    ],
)
def test_directions_are_counted_as_in_the_guide_s_example(hidden: int, unfrozen: str, of_width: str) -> None:
    facts = model(hidden, 2, 10, 2, 4 * hidden, 1000)
    said = told("osft", facts, **ratio(0.5))["unfreeze-rank-ratio-directions"]
    assert f"0.5 trains {unfrozen} of {of_width} directions per matrix" in said
    chosen = guide.unfreeze_rank_ratio(recipe("osft"), facts)
    assert chosen is not None
    assert f"{unfrozen} of {of_width} directions" in chosen.reason


def test_directions_of_a_guessed_model_are_a_guess() -> None:
    assert directions(named("some-8b"), 0.5).endswith(", judging by the model's name")
    assert directions(LARGE, 0.5).endswith("per matrix")
    assert (
        "judging by the model's name"
        in told("osft", named("some-8b"), **ratio(0.5))["unfreeze-rank-ratio-directions"]
    )


@pytest.mark.parametrize(
    ("value", "facts", "rules"),
    [
        (0.1, LARGE, {"conservative"}),
        (0.3, SMALL, {"conservative"}),
        (0.3, None, {"conservative"}),
        (0.4, LARGE, {"directions"}),
        (0.5, SMALL, {"directions"}),
        (0.5, None, set()),
        (0.6, LARGE, {"high"}),
        (0.6, named("some-8b"), {"high"}),
        (1.0, HUGE, {"high"}),
        (0.6, MIDDLE, {"raised"}),
        (0.8, SMALL, {"raised"}),
        (0.8, None, {"raised"}),
    ],
)
def test_each_row_of_the_guide_s_table_of_ratios(
    value: float, facts: ModelFacts | None, rules: set[str]
) -> None:
    said = told("osft", facts, **ratio(value))
    assert about("unfreeze-rank-ratio", said) == {f"unfreeze-rank-ratio-{rule}" for rule in rules}


def test_what_is_said_of_a_ratio_has_its_numbers() -> None:
    high = told("osft", LARGE, **ratio(0.75))["unfreeze-rank-ratio-high"]
    assert high.startswith(
        "0.75 (3,072 of 4,096 directions per matrix) is rarely needed for 8.03 billion weights"
    )
    assert (
        "small model may learn too little"
        in told("osft", SMALL, **ratio(0.2))["unfreeze-rank-ratio-conservative"]
    )
    assert "small model" not in told("osft", LARGE, **ratio(0.2))["unfreeze-rank-ratio-conservative"]
    assert "less than the 0.1" in told("osft", LARGE, **ratio(0.05))["unfreeze-rank-ratio-conservative"]


def test_a_lower_ratio_is_offered_when_memory_is_short() -> None:
    rule = "unfreeze-rank-ratio-memory"
    assert "with 0.3 a GPU needs about" in told("osft", LARGE, resources=gpus("24Gi"), **ratio(0.5))[rule]
    assert rule not in told("osft", LARGE, resources=gpus("24Gi"), **ratio(0.3))
    assert rule not in told("osft", LARGE, resources=gpus("1000Gi"), **ratio(0.5))
    assert rule not in told("osft", LARGE, **ratio(0.5))


def test_decomposing_takes_memory_whatever_the_ratio() -> None:
    said = {told("osft", LARGE, **ratio(value))["decomposition-memory"] for value in (0.1, 0.9)}
    assert len(said) == 1
    assert "decomposition-memory" not in told("sft", LARGE)
    assert "decomposition-memory" not in told("osft", None)


def test_patterns_that_match_no_layer_are_named_with_what_could_be_matched() -> None:
    rule = "target-patterns-match-nothing"
    said = told("osft", LARGE, osft={"targetPatterns": ["q_prj", "mlp", r"attention\."]})[rule]
    assert said.startswith("no linear layer of this model matches 'q_prj', 'attention\\\\.'; there are ")
    assert PROJECTIONS in said
    for good in (r"mlp\.", "[qkvo]_proj$", r"layers\.(0|31)\.", "self_attn"):
        assert rule not in told("osft", LARGE, osft={"targetPatterns": [good]})


def test_the_names_of_a_guessed_model_s_layers_are_not_known() -> None:
    assert "target-patterns-match-nothing" not in told(
        "osft", named("some-8b"), osft={"targetPatterns": ["c_attn"]}
    )


@pytest.mark.parametrize("facts", [None, named("some-8b")])
def test_a_name_that_no_model_s_layer_has_is_told_of_before_the_model_is_known(
    facts: ModelFacts | None,
) -> None:
    rule = "target-modules-match-nothing"
    said = told("lora", facts, lora={"targetModules": ["q_proj", "q_prj"]})[rule]
    assert said.startswith(f"no linear layer of any known model matches 'q_prj'; there are {PROJECTIONS}")
    assert rule not in told(
        "lora", facts, lora={"targetModules": ["c_attn", "layers.3.self_attn.q_proj", "fc1"]}
    )


def test_lora_starts_with_r_16_and_twice_that_as_alpha() -> None:
    r, alpha = guide.lora_r(recipe("lora")), guide.lora_alpha(recipe("lora", lora={"r": 64}))
    default = guide.lora_alpha(recipe("lora"))
    assert r is not None
    assert alpha is not None
    assert default is not None
    assert (r.value, default.value, alpha.value) == (16, 32, 128)
    assert guide.lora_r(recipe("sft")) is None
    assert guide.lora_alpha(recipe("osft")) is None


@pytest.mark.parametrize(
    ("r", "rules"),
    [
        (8, {"lora-r-low"}),
        (16, set()),
        (32, {"lora-r-raised"}),
        (64, {"lora-r-raised"}),
        (65, {"lora-r-high"}),
    ],
)
def test_r_is_16_and_32_or_64_for_a_model_that_underfits(r: int, rules: set[str]) -> None:
    assert about("lora-r", told("lora", SMALL, lora={"r": r})) == rules
    assert about("lora-r", told("lora", None, lora={"r": r})) == rules


def test_a_higher_r_costs_weights_and_memory() -> None:
    said = told("lora", LARGE, lora={"r": 256})["lora-r-high"]
    assert "671 million weights to train" in said
    assert "GiB per GPU instead of" in said


@pytest.mark.parametrize(
    "lora", [{"r": 16, "alpha": 32}, {"alpha": 32}, {}, {"alpha": 16, "useRslora": True}]
)
def test_alpha_is_twice_r(lora: dict[str, int]) -> None:
    assert "lora-alpha-not-twice-r" not in told("lora", lora=lora)


def test_another_alpha_is_told_with_its_scale() -> None:
    said = told("lora", lora={"r": 32, "alpha": 16})["lora-alpha-not-twice-r"]
    assert said == "16 with r: 32 scales adapters by 0.5; 2 is usual: set 64, or leave it out"


def test_modules_that_are_none_are_named_with_those_that_there_are() -> None:
    rule = "target-modules-match-nothing"
    said = told("lora", SMALL, lora={"targetModules": ["q_proj", "qkv_proj"]})[rule]
    assert said.startswith(f"no linear layer of this model matches 'qkv_proj'; there are {PROJECTIONS}")
    assert rule not in told("lora", SMALL, lora={"targetModules": ["q_proj", "mlp.up_proj"]})
    assert rule not in told("lora", SMALL)


@pytest.mark.parametrize("facts", [None, named("some-8b"), SMALL])
@pytest.mark.parametrize(
    "name", ["attention", "allLinear", "mlp.up_proj", r"layers\.[01]\..*_proj", "(q|v)_proj"]
)
def test_groups_and_regular_expressions_are_not_taken_for_names_that_no_layer_has(
    facts: ModelFacts | None, name: str
) -> None:
    assert "target-modules-match-nothing" not in told("lora", facts, lora={"targetModules": [name]})


def test_of_many_names_that_match_nothing_two_are_shown() -> None:
    said = told("lora", SMALL, lora={"targetModules": ["a", "b", "c", "d"]})["target-modules-match-nothing"]
    assert "matches 'a', 'b' and 2 more; there are" in said


BITS = ("quantization-needless", "quantization-8-bits-suffice", "quantization-of-large-models")


@pytest.mark.parametrize(
    ("facts", "memory", "lora", "rule"),
    [
        (SMALL, "80Gi", {"loadIn4Bit": True}, "quantization-needless"),
        (SMALL, "80Gi", {"loadIn8Bit": True}, "quantization-needless"),
        (LARGE, "16Gi", {"loadIn4Bit": True}, "quantization-8-bits-suffice"),
        (LARGE, "12Gi", {"loadIn4Bit": True}, None),
        (LARGE, "16Gi", {"loadIn8Bit": True}, None),
        (SMALL, None, {"loadIn4Bit": True}, None),
        (HUGE, None, {}, "quantization-of-large-models"),
        (HUGE, None, {"loadIn4Bit": True}, None),
        (LARGE, None, {}, None),
        (SMALL, "80Gi", {}, None),
    ],
)
def test_bits_suit_model_and_gpu(
    facts: ModelFacts, memory: str | None, lora: dict[str, object], rule: str | None
) -> None:
    said = told("lora", facts, data(lengths=(100, 300, 400, 512)), resources=gpus(memory), lora=lora)
    assert [found for found in said if found in BITS] == ([rule] if rule else [])


def test_a_model_that_fits_one_gpu_should_not_be_split() -> None:
    rule = "model-splitting-needless"
    split = {"enableModelSplitting": True}
    said = told("lora", LARGE, resources=gpus("80Gi", per_node=4), lora=split)[rule]
    assert "of 80 GiB" in said
    assert "4 copies train at once" in said
    assert rule not in told("lora", HUGE, resources=gpus("80Gi", per_node=4), lora=split)
    assert rule not in told("lora", LARGE, resources=gpus(None, per_node=4), lora=split)
    assert rule not in told("lora", LARGE, resources=gpus("80Gi", per_node=4))


def test_a_model_that_does_not_fit_one_gpu_must_be_split() -> None:
    rule = "model-splitting-needed"
    said = told("lora", HUGE, resources=gpus("80Gi", per_node=4))[rule]
    assert said.startswith("each of 4 GPUs holds the whole model")
    assert rule not in told("lora", LARGE, resources=gpus("80Gi", per_node=4))
    assert rule not in told(
        "lora", HUGE, resources=gpus("80Gi", per_node=4), lora={"enableModelSplitting": True}
    )
    assert rule not in told("lora", HUGE, resources=gpus("80Gi", per_node=4), lora={"loadIn4Bit": True})
    # Two GPUs of 24 GiB do not hold it either: what would is for the remedies to say.
    assert rule not in told("lora", HUGE, resources=gpus("24Gi", per_node=2))


def test_a_model_is_split_over_no_more_gpus_than_it_has_blocks() -> None:
    rule = "model-splitting-too-far"
    blocks = SMALL.architecture.layers
    split = {"enableModelSplitting": True}
    assert told("lora", SMALL, resources=gpus("80Gi", per_node=blocks + 1), lora=split)[rule] == (
        f"the {blocks} blocks of the model cannot be split over {blocks + 1} GPUs: set {blocks} at most"
    )
    assert rule not in told("lora", SMALL, resources=gpus("80Gi", per_node=blocks), lora=split)
    assert rule not in told("lora", SMALL, resources=gpus("80Gi", per_node=blocks + 1))
    [found] = [
        finding
        for finding in review(
            recipe("lora", resources=gpus("80Gi", per_node=64), lora=split), SMALL, None
        ).findings
        if finding.rule == rule
    ]
    assert found.severity is Severity.ERROR
    # Of a name alone nobody knows how many blocks there are.
    assert rule not in told("lora", named("some-1b"), resources=gpus("80Gi", per_node=64), lora=split)
