"""Generated answers are those of transformers' greedy decoding, and are compared with their references as stated."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.evaluation import Generate
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError, InvalidDataError
from finetune_trainer.evaluating import matching
from finetune_trainer.evaluating.answers import answers
from finetune_trainer.evaluating.evaluator import EvaluatedSet
from finetune_trainer.evaluating.matching import matches, problem, without_thoughts
from finetune_trainer.evaluating.mode import judging
from finetune_trainer.evaluating.passes import AskedToStopError, Passes
from finetune_trainer.evaluating.writer import Writer
from finetune_trainer.inputs import Inputs
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.prepare.questions import Question
from styles import BY_NAME, save_style
from tiny import save_tiny_model
from trainer.judging import VOCABULARY, asked_at, evaluator, parametrized, save_samples
from trainer.states import alone, together

LONGEST, CONTEXT = 12, 40
EXACT, REGEX = Generate(match="Exact"), Generate(match="Regex")


def prompts() -> list[list[int]]:
    """Of all lengths, up to one that leaves no room in the context."""
    draw = np.random.default_rng(0)
    return [draw.integers(VOCABULARY, size=size).tolist() for size in (3, 11, 35, 1, 25, 40, 8)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that says one thing after another: weights are large, and not always the same wins.

    Beside it are the samples of a set.
    """
    base = tmp_path_factory.mktemp("answers") / "model"
    save_tiny_model(base)
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    hf.save_pretrained(base)
    save_samples(base.with_name("samples"), [9, 12])
    return base


def generated(base: Path, ends: list[int]) -> list[list[int]]:
    """What transformers generates, with its cache, each prompt alone."""
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    found = []
    for prompt in prompts():
        ids, room = torch.tensor([prompt]), min(LONGEST, CONTEXT - len(prompt))
        if room > 0:
            ids = hf.generate(
                ids,
                # It would take one of the prompts' tokens for padding.
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=room,
                eos_token_id=ends,
                pad_token_id=0,
            )
        found.append(ids[0, len(prompt) :].tolist())
    return found


def written(
    gang: Gang, base: Path, budget: int, ends: set[int], method: str
) -> tuple[list[list[int]], int, int]:
    """Part of a gang: answers of this process; passes, and the most tokens of one."""
    model = parametrized(gang, base, method).model
    passes: list[int] = []

    class Watched(Passes):
        def _forward(self, inputs: Inputs, measure: Any) -> torch.Tensor:
            passes.append(sum(inputs["sample_lengths"]))
            return super()._forward(inputs, measure)

    with judging(model):
        found = answers(
            Watched(gang, model, budget, lambda _: judging(model), lambda: None, lambda: False),
            prompts()[gang.rank :: gang.world_size],
            longest=LONGEST,
            ends=ends,
            context_length=CONTEXT,
        )
    return found, len(passes), max(passes)


@pytest.fixture(scope="module")
def ends(base: Path) -> list[int]:
    """Tokens that end some of the answers before they are as long as they may be."""
    longest = generated(base, [VOCABULARY])
    return [longest[0][4], longest[3][2]]


@pytest.mark.parametrize("budget", [1, 60, 1000])
@pytest.mark.parametrize("nodes", [1, 2])
def test_answers_are_those_of_transformers(base: Path, ends: list[int], nodes: int, budget: int) -> None:
    expected = generated(base, ends)
    lengths = {len(answer) for answer in expected}
    assert {0, LONGEST, CONTEXT - 35} < lengths
    parts = together(nodes, written, base, budget, set(ends), "sft")
    for rank, (found, _, most) in enumerate(parts):
        assert found == expected[rank::nodes]
        # One text may be longer than that; several together may not.
        assert most <= max(budget, CONTEXT)
    # A process without anything to do makes passes all the same.
    assert len({passes for _, passes, _ in parts}) == 1
    if (nodes, budget) == (1, 1000):
        assert parts[0][1] == LONGEST


def test_asked_to_stop_in_the_middle_of_an_answer(base: Path) -> None:
    with alone() as gang:
        model = parametrized(gang, base, "sft").model
        asked: list[bool] = []
        passes = Passes(
            gang, model, 100, lambda _: judging(model), lambda: asked.append(False), asked_to_stop=asked_at(3)
        )
        with pytest.raises(AskedToStopError):
            answers(passes, prompts(), longest=LONGEST, ends=set(), context_length=CONTEXT)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("generate", "reference", "answer", "matched"),
    [
        (EXACT, " Paris\n", "Paris", True),
        (EXACT, "Paris", "\n Paris ", True),
        (EXACT, "Paris", "paris", False),
        (EXACT, "Par.s", "Paris", False),
        (REGEX, "Par.s", "It is Paris.", True),
        (REGEX, "^Paris", "It is Paris.", False),
        (REGEX, "(?i)PARIS|Lutetia", "paris", True),
        (REGEX, r"\b42\b", "It is 420", False),
    ],
)
def test_matching(generate: Generate, reference: str, answer: str, matched: bool) -> None:
    assert problem(generate, reference) is None
    assert matches(generate, answer, reference) is matched


THOUGHT = "<think>\nParis, </think>\n London? </think>\n\n"


@pytest.mark.parametrize(
    ("answer", "reference", "compared"),
    [
        ("<think>\n\n</think>\n\nParis", "Paris", "Paris"),
        ("a prompt began them</think>\n\n Paris\n", "Paris", "Paris"),
        (f"{THOUGHT}Rome", "Paris", "Rome"),
        (THOUGHT, "Paris", ""),
        (f"{THOUGHT}Paris", "</think>\\s*Paris", f"{THOUGHT}Paris"),
        (f"{THOUGHT}Paris", r"<\/think\s*>", f"{THOUGHT}Paris"),
        (f"{THOUGHT}I think so", "I think so", "I think so"),
        ("<think>\nParis", "Paris", "<think>\nParis"),
        (" Paris\n", "Paris", " Paris\n"),
    ],
)
def test_what_is_compared_comes_after_the_thoughts(answer: str, reference: str, compared: str) -> None:
    assert without_thoughts(answer, reference) == compared


@pytest.mark.parametrize(("generate", "reference"), [(EXACT, "hello"), (REGEX, "^hel+o$")])
def test_an_answer_with_a_block_of_thoughts_matches(
    tmp_path: Path, generate: Generate, reference: str
) -> None:
    model = save_style(tmp_path, BY_NAME["qwen3"])
    writer, tokenizer = Writer(model), AutoTokenizer.from_pretrained(model)
    wrote = tokenizer.encode(BY_NAME["qwen3"].answer("hello", last=True), add_special_tokens=False)
    answer = writer.text(wrote)
    assert answer == "<think>\n\n</think>\n\nhello"
    assert matches(generate, answer, reference)
    assert not matches(generate, answer + "!", reference)


def test_only_patterns_can_be_wrong() -> None:
    assert problem(EXACT, "(") is None
    said = problem(REGEX, "(unclosed")
    assert said is not None
    assert said.startswith("'(unclosed' is no regular expression: missing )")


def sets(base: Path, references: list[str], generate: Generate) -> list[EvaluatedSet]:
    """One whose questions have these references."""
    questions = [
        Question(row, prompt, reference)
        for row, (prompt, reference) in enumerate(zip(prompts(), references, strict=False), start=10)
    ]
    samples = Samples(base.with_name("samples"))
    return [EvaluatedSet("new-skill", "spec.evaluation.sets[new-skill]", samples, questions, generate)]


def answered(gang: Gang, base: Path, references: list[str], generate: Generate) -> float | None:
    """Part of a gang: the share of answers that match."""
    # Patterns that take for ever are to be given up at once.
    vars(matching)["_SECONDS"] = 0.05
    model = parametrized(gang, base, "sft").model
    judge = evaluator(gang, model, base, sets(base, references, generate), context_length=CONTEXT)
    [score] = judge.evaluate(50) or []
    assert score.loss is not None
    return score.answered


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_the_share_of_answers_that_match(base: Path, nodes: int) -> None:
    writer, generate = Writer(base), EXACT.model_copy(update={"max_new_tokens": LONGEST})
    texts = [writer.text(answer) for answer in generated(base, sorted(writer.ends))]
    right = [f" {text} \n" if number in (0, 3, 4) else "wrong" for number, text in enumerate(texts)]
    assert together(nodes, answered, base, right, generate) == [3 / 7] * nodes
    generate = generate.model_copy(update={"match": "Regex"})
    patterns = [re.escape(text[1:3]) if number else "neither nor" for number, text in enumerate(texts)]
    assert together(nodes, answered, base, patterns, generate) == [6 / 7] * nodes


def test_a_pattern_that_takes_for_ever_is_no_match_and_is_named(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hopeless = r"(?s)(.|.)*(?!)"
    with alone() as gang:
        assert answered(gang, base, ["", hopeless], REGEX) == 0.5
    [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("spec.evaluation.sets[new-skill]: row 12: its reference '(?s)")
    assert "takes more than 0.05 seconds to be looked for in an answer of " in said
    assert said.endswith("so that counts as no match")


def test_a_pattern_that_is_none_is_named_before_anything_is_computed(base: Path) -> None:
    with (
        alone() as gang,
        pytest.raises(InvalidDataError, match=r"sets\[new-skill\]: row 11: its reference '\(' is no regular"),
    ):
        evaluator(gang, parametrized(gang, base, "sft").model, base, sets(base, ["("], REGEX))


def test_answers_in_words(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    vocabulary = tokenizer.get_vocab()
    end, start = vocabulary["<|im_end|>"], vocabulary["<|im_start|>"]
    words = tokenizer.encode("Yes , it is .", add_special_tokens=False)
    writer = Writer(base)
    assert writer.ends == {end}
    assert writer.text([*words, end]) == writer.text([start, *words]) == "Yes , it is ."
    assert writer.text([]) == ""
    # What generation_config.json says ends answers, too, and is no part of them.
    save_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [{end}, {words[-1]}]}}')
    writer = Writer(tmp_path)
    assert writer.ends == {end, words[-1]}
    assert writer.text(words) == "Yes , it is "
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InvalidConfigurationError, match=r"spec\.model: cannot read generation_config\.json"):
        Writer(tmp_path)
