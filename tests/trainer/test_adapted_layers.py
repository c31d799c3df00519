"""The layers that get adapters: as the plan counts them by a model's family, and as the trainer finds them."""

import re
from collections import Counter
from typing import Any

import pytest

from advice import recipe
from finetune_api.architecture import from_config
from finetune_api.facts import ModelFacts
from finetune_api.plan import review
from finetune_api.trained_weights import lora_alpha, lora_r, targets, trainable_parameters
from finetune_trainer.adapters.adapter import adapt, adapted_layers
from finetune_trainer.adapters.identity import Named
from finetune_trainer.ends.errors import InvalidConfigurationError
from trainer.test_architecture import CONFIGS, FAMILIES, SHALLOW, build, config_of

ALL = sorted(path.stem for path in CONFIGS.glob("*.json"))


@pytest.mark.parametrize("name", ALL)
def test_plan_and_trainer_adapt_the_same_layers(name: str) -> None:
    config = config_of(name) | SHALLOW
    model, architecture = build(config), from_config(config)
    last = architecture.linears[-1].name
    for modules in (
        None,
        ["allLinear"],
        ["attention"],
        [last.rpartition(".")[2]],
        [last],
        [rf"{architecture.blocks}.1.{last}"],
        [r"1\..*"],
        ["attention", last],
    ):
        planned = recipe("lora", lora={"targetModules": modules} if modules else {})
        found = adapted_layers(model, planned.lora)
        kinds = Counter(re.sub(rf"^{re.escape(architecture.blocks)}\.\d+\.", "", each) for each in found)
        assert kinds == {each.name: count for each, count in targets(planned, architecture)}


@pytest.mark.parametrize("knobs", [{}, {"r": 3, "useDora": True}, {"targetModules": ["attention"]}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_weights_are_those_of_peft_s_adapters(family: str, knobs: dict[str, Any]) -> None:
    config = config_of(FAMILIES[family]) | SHALLOW
    planned = recipe("lora", lora=knobs)
    adapted = adapt(
        build(config).requires_grad_(False),
        planned.lora,
        r=lora_r(planned),
        alpha=lora_alpha(planned),
        base=Named("a base model"),
    )
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == trainable_parameters(planned, from_config(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_matches_nothing_is_advised_against_and_fails(family: str) -> None:
    config = config_of(FAMILIES[family]) | SHALLOW
    # A part of a name that ends, or begins, in the middle between dots; no layer of the blocks.
    for wrong in ("roj", "self_attn", "lm_head", r"layers\.7\..*"):
        planned = recipe("lora", lora={"targetModules": ["allLinear", wrong]})
        with pytest.raises(InvalidConfigurationError, match="targetModules: no linear layer"):
            adapted_layers(build(config), planned.lora)
        studied = review(planned, ModelFacts(from_config(config)), None)
        assert "target-modules-match-nothing" in {finding.rule for finding in studied.findings}
