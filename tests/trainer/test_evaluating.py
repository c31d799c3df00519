"""Scores are those of each sample alone, whatever the method and however the work is divided; training sees nothing."""

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_api.hyperparameters import Hyperparameters
from finetune_trainer.batches import Schedule
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Ballot, Gang
from finetune_trainer.evaluating import losses
from finetune_trainer.evaluating.mode import judging
from finetune_trainer.feed import Feed
from finetune_trainer.loss import Head, loss_and_hits, summed_cross_entropy
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.step import Stepper
from finetune_trainer.stopwatch import Stopwatch
from tiny import save_tiny_model
from trainer.allocations import allocating, config_of, micro_batch, whole
from trainer.judging import (
    METHODS,
    Condition,
    asked_at,
    evaluator,
    parametrized,
    plain_sets,
    save_samples,
    scores,
)
from trainer.states import alone, together

# A single token, which nothing predicts; one that is longer than a budget.
LENGTHS = [7, 40, 1, 13, 13, 90, 2, 31, 25, 64, 5]
SMALL, LARGE = 80, 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model."""
    base = tmp_path_factory.mktemp("evaluating") / "model"
    save_tiny_model(base)
    return base


@pytest.fixture(scope="module")
def data(base: Path) -> list[Path]:
    """The directories of three data sets, of which one has no loss at all."""
    return [
        save_samples(base.with_name("validation"), LENGTHS),
        save_samples(base.with_name("general"), [9, 9, 9], seed=1),
        save_samples(base.with_name("nothing"), [20, 3], with_loss=False),
    ]


@torch.no_grad()
def by_hand(hf: PreTrainedModel, samples: Samples) -> tuple[float, float, int]:
    """Mean loss, accuracy and tokens by the plain mathematics, each sample alone, in double precision."""
    loss, hits, tokens = 0.0, 0, 0
    for place in range(len(samples)):
        ids, labels = (torch.tensor(each, dtype=torch.int64) for each in samples[place])
        logits, wanted = hf(input_ids=ids[None], use_cache=False).logits[0, :-1].double(), labels[1:]
        loss += float(functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100))
        hits += int((logits.argmax(1) == wanted)[wanted != -100].sum())
        tokens += int((wanted != -100).sum())
    return loss / tokens, hits / tokens, tokens


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_scores_are_those_of_each_sample_alone(base: Path, data: list[Path], nodes: int) -> None:
    hf = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").double()
    found = together(nodes, scores, base, data, "sft", [SMALL, LARGE])
    assert found == [found[0]] * nodes
    for of_budget in found[0]:
        assert [score.name for score in of_budget] == ["validation", "general", "nothing"]
        for score, directory in zip(of_budget[:2], data, strict=False):
            loss, accuracy, tokens = by_hand(hf, Samples(directory))
            assert score.loss == pytest.approx(loss, rel=1e-6)
            assert score.perplexity == pytest.approx(torch.tensor(loss).double().exp().item(), rel=1e-5)
            assert score.token_accuracy == accuracy
            assert score.tokens == tokens
            assert (score.answered, score.change) == (None, None)
        assert of_budget[2].model_dump(exclude={"name"}, exclude_none=True) == {"tokens": 0}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "sft"])
def test_every_method_has_the_same_scores_on_any_number_of_processes(
    base: Path, data: list[Path], method: str
) -> None:
    [[one, _]] = together(1, scores, base, data[:2], method, [SMALL, LARGE])
    for nodes in (2, 4):
        for found in together(nodes, scores, base, data[:2], method, [SMALL, LARGE]):
            for of_budget in found:
                for score, expected in zip(of_budget, one, strict=True):
                    assert score.loss == pytest.approx(expected.loss, rel=1e-5)
                    assert (score.tokens, score.token_accuracy) == (expected.tokens, expected.token_accuracy)


def test_sets_that_are_packed_in_parts(base: Path, data: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with alone() as gang:
        whole = scores(gang, base, data[:1], "sft", [LARGE])
        monkeypatch.setattr(losses, "_SAMPLES_AT_A_TIME", 4)
        [[first]], [[second]] = whole, scores(gang, base, data[:1], "sft", [LARGE])
    assert first.loss == pytest.approx(second.loss, rel=1e-9)
    assert (first.tokens, first.token_accuracy) == (second.tokens, second.token_accuracy)


def left_as_it_was(gang: Gang, base: Path, data: list[Path], method: str) -> tuple[bool, list[Any]]:
    """Part of a gang: whether evaluations that are finished or not leave everything as it is, and what they return."""
    model = parametrized(gang, base, method).model
    # One part is in this mode already, and stays there.
    model.hf.get_input_embeddings().eval()
    before, results = Condition.of(model), []
    sets = plain_sets(data)
    for asked in (asked_at(1000), asked_at(2), asked_at(0)):
        results.append(evaluator(gang, model, base, sets, asked_to_stop=asked).evaluate(SMALL))
        if Condition.of(model) != before:
            return False, results
    return not before.gathered, results


@pytest.mark.parametrize(("method", "nodes"), [(method, 1) for method in METHODS] + [("sft", 2)])
def test_everything_is_left_as_it_was_whether_it_is_finished_or_not(
    base: Path, data: list[Path], method: str, nodes: int
) -> None:
    for same, [finished, broken_off, broken_off_at_once] in together(
        nodes, left_as_it_was, base, data, method
    ):
        assert same
        assert len(finished) == 3
        assert broken_off is None
        assert broken_off_at_once is None


@dataclass(frozen=True)
class Trained:
    """What some steps lead to."""

    losses: list[float]
    weights: dict[str, Tensor]


def trained(gang: Gang, base: Path, data: list[Path], method: str, *, judged: bool) -> Trained:
    """Part of a gang: some steps of several micro-batches each, and between them evaluations."""
    made, samples = parametrized(gang, base, method), Samples(data[0])
    optimizer = AdamW([{"params": weights} for weights in made.groups], lr=1e-3)
    state = State(made, optimizer, LambdaLR(optimizer, lambda step: 1.0))
    stepper = Stepper(
        gang,
        state,
        samples,
        Hyperparameters(),
        accumulate_locally=True,
        ballot=Ballot(gang),
        stop_requested=lambda: False,
        overdue=lambda: False,
        tick=lambda: None,
    )
    schedule = Schedule(len(samples), batch_size=8, seed=1)
    judge = evaluator(gang, made.model, base, plain_sets(data))
    feed = Feed(
        samples,
        schedule,
        budget=90,
        rank=gang.rank,
        world_size=gang.world_size,
        device=gang.device,
        first=0,
        last=3,
    )
    found = []
    with closing(feed):
        stopwatch = Stopwatch(made.model, gang, feed)
        for step in feed:
            if judged:
                judge.evaluate(SMALL)
            measured = stepper.make(step, stopwatch, lambda _: nullcontext())
            assert measured is not None
            found.append(measured.loss)
        if judged:
            judge.evaluate(SMALL)
    return Trained(found, Condition.of(made.model).weights)


def with_and_without(
    gang: Gang, base: Path, data: list[Path], method: str
) -> tuple[list[float], list[float], bool]:
    """Part of a gang: the losses of both, and whether all weights are equal to the last bit."""
    without, between = (trained(gang, base, data, method, judged=judged) for judged in (False, True))
    same = all(torch.equal(weight, between.weights[name]) for name, weight in without.weights.items())
    return without.losses, between.losses, same


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_training_is_the_same_to_the_last_bit_with_evaluations_and_without(
    base: Path, data: list[Path], method: str, nodes: int
) -> None:
    for without, between, same in together(nodes, with_and_without, base, data, method):
        assert without == between
        assert len(set(without)) == 3
        assert same


@pytest.mark.parametrize(
    "head",
    [
        Head(torch.empty(0)),
        Head(torch.empty(0), torch.empty(0)),
        Head(torch.empty(0), scale=0.3),
        Head(torch.empty(0), scale=0.7, cap=2.0),
    ],
    ids=["plain", "bias", "scale", "cap"],
)
def test_what_is_told_of_logits_is_what_is_trained_on(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_trainer.loss.LOSS_CHUNK", {4: 7})
    torch.manual_seed(0)
    weight, hidden, targets = torch.randn(50, 16), torch.randn(30, 16), torch.randint(50, (30,))
    bias = None if head.bias is None else torch.randn(50)
    head = Head(weight, bias, head.scale, head.cap)
    targets[::2] = head.logits(hidden).argmax(1)[::2]
    loss, hits = loss_and_hits(hidden, targets, head).tolist()
    assert loss == pytest.approx(summed_cross_entropy(hidden, targets, head).item(), rel=1e-6)
    assert hits == (head.logits(hidden).argmax(1) == targets).sum()


@pytest.mark.parametrize("vocabulary", [300, 8000])
def test_it_needs_less_memory_than_training_with_the_same_budget(vocabulary: int) -> None:
    config = config_of("llama", vocab_size=vocabulary)
    model, inputs = whole(config), micro_batch(config, 1024, 256)

    def step() -> None:
        model(**inputs).backward()

    def judge() -> None:
        with judging(model):
            model(**inputs, measure=loss_and_hits)

    peaks = []
    for work in (judge, step):
        with allocating() as allocated:
            work()
        peaks.append(allocated.peak)
    # Most of a step is what it keeps for its backward pass; that, and gradients, are not there.
    assert peaks[0] < 0.5 * peaks[1]
