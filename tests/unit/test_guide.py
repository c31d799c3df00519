"""The rule book as a whole."""

from collections import Counter
from types import ModuleType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advice import HUGE, LARGE, MIDDLE, SMALL, named
from finetune_api import guide
from finetune_api.facts import DataFacts, Finding, ModelFacts, Severity
from finetune_api.guide import batches, general, hardware, learning_rates, lengths, lora, osft, underfitting
from finetune_api.guide.guideline import Guideline
from finetune_api.hyperparameters import Hyperparameters, Pretraining
from finetune_api.methods import Lora, Method, Osft
from finetune_api.model import ApiModel
from finetune_api.plan import plan
from finetune_api.recipe import Recipe
from finetune_api.spec import Checkpoints, FineTuneJobSpec
from finetune_api.status import Lengths, MicroBatches, Plan


def has_field(model: type[ApiModel], path: str) -> bool:
    """Whether a path of names as they are written leads to a field."""
    name, _, rest = path.partition(".")
    for field_name, field in model.model_fields.items():
        if (field.alias or field_name) != name:
            continue
        if not rest:
            return True
        blocks = [field.annotation, *getattr(field.annotation, "__args__", ())]
        return any(
            isinstance(block, type) and issubclass(block, ApiModel) and has_field(block, rest)
            for block in blocks
        )
    return False


def test_each_rule_has_an_id_of_its_own() -> None:
    assert [rule for rule, number in Counter(rule.id for rule in guide.RULES).items() if number > 1] == []
    assert all(rule.id == rule.id.lower().replace("_", "-") for rule in guide.RULES)


@pytest.mark.parametrize(
    "module", [learning_rates, batches, lengths, osft, lora, underfitting, hardware, general]
)
def test_every_rule_that_is_written_is_in_the_book(module: ModuleType) -> None:
    written = [value for value in vars(module).values() if isinstance(value, Guideline)]
    assert written
    assert [rule.id for rule in written if rule not in guide.RULES] == []


def test_every_rule_speaks_of_a_field_that_there_is() -> None:
    assert [
        rule.field for rule in guide.RULES if not has_field(FineTuneJobSpec, rule.field.removeprefix("spec."))
    ] == []
    assert not has_field(FineTuneJobSpec, "hyperparameters.learning")
    assert not has_field(FineTuneJobSpec, "hyperparameters.learningRate.more")


def test_every_choice_is_of_a_field_that_there_is() -> None:
    assert [
        field for field in guide.CHOICES if not has_field(FineTuneJobSpec, field.removeprefix("spec."))
    ] == []


def test_the_guide_advises_and_never_rejects() -> None:
    assert {rule.severity for rule in guide.RULES} == {Severity.WARNING, Severity.NOTE}


def test_every_rule_states_itself_and_names_its_section() -> None:
    assert all(rule.statement.endswith(".") and rule.section for rule in guide.RULES)


numbers = st.integers(1, 1_000_000)
rates = st.floats(1e-12, 1, exclude_min=True)
patterns = st.sampled_from([r"q_proj$", r"mlp\.", "nothing", r"layers\.1\.", "'\"\n|"])
names = st.sampled_from(["q_proj", "mlp.down_proj", "nothing", "a" * 128])


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any recipe that a valid spec can state."""
    method: Method = draw(st.sampled_from(get_args(Method)))
    documents = method != "lora" and draw(st.booleans())
    length = draw(optional(st.integers(8, 1_048_576)))
    hyperparameters = Hyperparameters(
        learning_rate=draw(optional(rates)),
        effective_batch_size=draw(optional(st.integers(1, 65_536))),
        num_epochs=draw(optional(st.integers(1, 1000))),
        max_seq_len=None if documents else length,
        max_tokens_per_gpu=draw(optional(st.integers(1_048_576, 16_777_216))),
        max_steps=draw(optional(numbers)),
        pretraining=Pretraining(block_size=length or 2048) if documents else None,
        unmask_messages=not documents and method != "lora" and draw(st.booleans()),
    )
    bits = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    gpus = draw(st.integers(0, 64))
    split = method == "lora" and gpus > 1 and draw(st.booleans())
    ratios = st.floats(0, 1, exclude_min=True)
    return Recipe(
        method=method,
        hyperparameters=hyperparameters,
        osft=Osft(
            unfreeze_rank_ratio=draw(optional(ratios)), target_patterns=draw(st.lists(patterns, max_size=4))
        ),
        lora=Lora(
            r=draw(optional(st.integers(1, 4096))),
            alpha=draw(optional(st.integers(1, 65_536))),
            target_modules=draw(optional(st.lists(names, min_size=1, max_size=4))),
            load_in_4bit=bits[0],
            load_in_8bit=bits[1],
            enable_model_splitting=split,
        ),
        checkpoints=Checkpoints(full_state_at_epoch=draw(st.booleans())),
        nodes=1 if split else draw(st.integers(1, 1024)),
        gpus_per_node=gpus,
        gpu_memory=draw(optional(st.integers(1, 2**50))),
    )


models = st.sampled_from([None, SMALL, MIDDLE, LARGE, HUGE, named("some-8b-instruct"), named("some-70b")])


@st.composite
def facts(draw: st.DrawFn) -> DataFacts:
    """What can be measured of data, consistent or not."""
    counts = st.integers(0, 10**9)
    p50, p95, p99, longest = sorted(draw(st.lists(st.integers(1, 10**7), min_size=4, max_size=4)))
    least, most = sorted(draw(st.lists(counts, min_size=2, max_size=2)))
    lengths = Lengths(p50=p50, p95=p95, p99=p99, max=longest)
    micro_batches = MicroBatches(min=least, mean=draw(optional(st.just((least + most) / 2))), max=most)
    return DataFacts(
        samples=draw(counts),
        dropped=draw(counts),
        lengths=draw(optional(st.just(lengths))),
        micro_batches=draw(optional(st.just(micro_batches))),
    )


@given(recipe=recipes(), model=models, data=st.none() | facts())
def test_whatever_is_planned_is_advised_on(
    recipe: Recipe, model: ModelFacts | None, data: DataFacts | None
) -> None:
    planned = plan(recipe, model, data)
    remedies = ["method: lora with lora.loadIn4Bit: true (1,234 GiB each)"] * 3
    for finding in guide.advise(recipe, planned, model, data, remedies):
        assert finding.message
        assert len(str(finding)) <= hardware.MAX_WARNING, finding


@given(recipe=recipes(), model=models, data=st.none() | facts())
def test_what_the_guide_chooses_it_does_not_advise_against(
    recipe: Recipe, model: ModelFacts | None, data: DataFacts | None
) -> None:
    open_recipe = Recipe(
        method=recipe.method,
        hyperparameters=Hyperparameters(pretraining=recipe.hyperparameters.pretraining),
        osft=Osft(),
        lora=Lora(),
        checkpoints=Checkpoints(),
        nodes=1,
        gpus_per_node=8,
        gpu_memory=2**50,
    )
    data = data and DataFacts(samples=max(8, data.samples), lengths=data.lengths)
    planned = plan(open_recipe, model, data)
    said = guide.advise(open_recipe, planned, model, data)
    assert [finding for finding in said if finding.severity is Severity.WARNING and not _block(finding)] == []


def _block(finding: Finding) -> bool:
    """Block sizes are stated, never chosen."""
    return finding.field == "spec.hyperparameters.pretraining.blockSize"


@given(
    recipe=recipes(), model=st.sampled_from([named("some-8b"), named("some-70b")]), data=st.none() | facts()
)
def test_what_follows_from_a_guessed_size_says_so(
    recipe: Recipe, model: ModelFacts, data: DataFacts | None
) -> None:
    blind = guide.advise(recipe, plan(recipe, None, data), None, data)
    for finding in guide.advise(recipe, plan(recipe, model, data), model, data):
        if finding not in blind:
            assert "judging by" in finding.message


@given(recipe=recipes(), data=st.none() | facts())
def test_a_plan_of_little_is_enough_to_advise_on(recipe: Recipe, data: DataFacts | None) -> None:
    bare = Plan(learning_rate=1e-5, num_epochs=2, world_size=recipe.world_size)
    guide.advise(recipe, bare, None, data)
