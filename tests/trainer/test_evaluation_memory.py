"""Running out of memory in an evaluation: as in a step, it is done again with a smaller token budget."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.failure import ExitCode
from trainer import forked
from trainer.gangs import kept_report
from trainer.judged import HYPERPARAMETERS, Judged, save_inputs

BUDGET = HYPERPARAMETERS["maxTokensPerGpu"] * 2
EVALUATION = {"everySteps": 2}
STEPS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("memory")
    save_inputs(base)
    return base


@dataclass(frozen=True)
class Scarcity:
    """From a pass on that is no training step's, passes find no memory: that one, or all of them."""

    nth: int
    lasting: bool = False

    def __call__(self, rank: int) -> None:
        if rank:
            return
        from torch.nn.modules.module import register_module_forward_pre_hook

        from finetune_trainer.model import TrainableModel

        passed = itertools.count(1)

        def on_forward(module: Any, _: Any) -> None:
            if isinstance(module, TrainableModel) and not torch.is_grad_enabled():
                number = next(passed)
                if number == self.nth or (self.lasting and number > self.nth):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        register_module_forward_pre_hook(on_forward)


def course(base: Path) -> Judged:
    return Judged(base, evaluation=EVALUATION, hyperparameters={"maxSteps": STEPS, "maxTokensPerGpu": BUDGET})


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_evaluation_is_made_with_half_the_budget(base: Path, world_size: int) -> None:
    run, undisturbed = course(base), course(base)
    undisturbed.finish(world_size)
    # In that after step 2, whatever the number of passes of each: three sets of scores are made.
    with forked.running(run.config(world_size), beforehand=Scarcity(nth=3)) as gang:
        codes = gang.wait()
    if world_size > 1:
        # The first process of each container would start them again.
        assert set(codes) == {ExitCode.SMALLER_BUDGET}, gang.output()
        with forked.running(run.config(world_size), attempt=2) as gang:
            codes = gang.wait()
    assert codes == [0] * world_size, gang.output()
    plan = kept_report(run.storage).plan
    assert plan is not None
    assert plan.max_tokens_per_gpu == BUDGET // 2
    assert run.scores() == pytest.approx(undisturbed.scores(), abs=1e-5)


def test_where_no_budget_is_small_enough_the_cause_is_told(base: Path) -> None:
    run = course(base)
    with forked.running(run.config(1), beforehand=Scarcity(nth=1, lasting=True)) as gang:
        assert gang.wait() == [ExitCode.OUT_OF_MEMORY], gang.output()
        [cause] = gang.causes().values()
    assert cause["message"].startswith("the evaluation before training: ")
    assert "does not fit into memory" in cause["message"]
    assert not run.evaluations.exists()
