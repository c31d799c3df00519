"""The matrices that osft decomposes: as the plan counts them by a model's family, and as the trainer finds them."""

from collections import Counter

import pytest

from advice import recipe
from finetune_api.architecture import from_config
from finetune_api.trained_weights import factored, targets, trainable_parameters, unfrozen_rank
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.subspaces.targets import find_targets, trained_numbers
from trainer.test_architecture import FAMILIES, SHALLOW, build, config_of

RATIO = 0.3


@pytest.mark.parametrize(
    "patterns", [[], [r"layers\.1\.|h\.1\."], [r"(q_proj|c_attn|qkv_proj)$"]], ids=["all", "block", "queries"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_plan_and_trainer_agree(family: str, patterns: list[str]) -> None:
    config = config_of(FAMILIES[family]) | SHALLOW
    model, architecture = build(config), from_config(config)
    planned = recipe("osft", osft={"unfreezeRankRatio": RATIO, "targetPatterns": patterns})
    found = find_targets(model, patterns, RATIO)
    # A family's own order of the two sides depends on the kind of its layers.
    kinds = Counter((target.module, frozenset(target.shape), target.matrix.unfrozen) for target in found)
    expected = {
        (
            each.name,
            frozenset((each.outputs, each.inputs)),
            unfrozen_rank(each.outputs, each.inputs, RATIO),
        ): n
        for each, n in targets(planned, architecture)
    }
    assert kinds == expected
    assert trained_numbers(model.parameters(), found) == trainable_parameters(planned, architecture)
    frozen = sum(each.count * (each.factors - each.trained) for each in factored(planned, architecture))
    assert sum(target.matrix.factors - target.matrix.trained for target in found) == frozen


def test_patterns_are_regular_expressions_searched_in_whole_names() -> None:
    model = build(config_of(FAMILIES["llama"]) | SHALLOW)

    def names(*patterns: str) -> list[str]:
        return [target.name for target in find_targets(model, patterns, RATIO)]

    assert names(r"layers\.0\..*(k|down)_proj$") == [
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    ]
    assert names("^model.layers.1.mlp.up_proj$", "q_proj", "q_proj") == [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ]


def test_a_pattern_in_no_name_is_refused_with_the_layers_that_there_are() -> None:
    model = build(config_of(FAMILIES["gpt2"]) | SHALLOW)
    with pytest.raises(InvalidConfigurationError, match=r"targetPatterns.*'lm_head'.*c_attn, c_proj, c_fc"):
        find_targets(model, ["c_attn", "lm_head"], RATIO)
