"""One optimizer step: a loss that is no number is known everywhere before it gets into any weight."""

import json
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from finetune_api.failure import ExitCode
from finetune_api.hyperparameters import Hyperparameters
from finetune_api.runconfig import RunConfig
from finetune_api.spec import Checkpoints
from finetune_trainer.batches import Schedule
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Ballot
from finetune_trainer.ends.errors import LossNotFiniteError
from finetune_trainer.feed import Feed
from finetune_trainer.methods import sft
from finetune_trainer.methods.parametrization import Parametrization
from finetune_trainer.model import load_config
from finetune_trainer.prepare.arrow import Samples
from finetune_trainer.step import Stepper
from finetune_trainer.stopwatch import Stopwatch
from tiny import conversation, poison, save_tiny_model
from trainer import forked
from trainer.gangs import config, steps
from trainer.states import alone, assert_same, content

SAMPLES, BATCH, POISONED_STEP = 12, 4, 3
# A micro-batch for each sample.
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "maxSeqLen": 64,
    "maxTokensPerGpu": 64,
}
SCHEDULE = Schedule(SAMPLES, BATCH, Hyperparameters().seed)
BAD_BATCH = [int(sample) for sample in SCHEDULE.batch(POISONED_STEP - 1).samples]
BAD = BAD_BATCH[2]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run on two processes of which one sample leads to no number, in its third step."""
    base = tmp_path_factory.mktemp("poisoned")
    save_tiny_model(base / "sound")
    poison(base / "sound", base / "model", token="~")
    rows = [conversation("x", ("~" if row == BAD else "y") * 30) for row in range(SAMPLES)]
    (base / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return config(base, nodes=2, **HYPERPARAMETERS).model_copy(
        update={"checkpoints": Checkpoints(every_steps=1)}
    )


@pytest.fixture(scope="module")
def causes(poisoned: RunConfig) -> list[dict[str, Any]]:
    """What its processes ended of."""
    with forked.running(poisoned) as gang:
        assert gang.wait() == [ExitCode.LOSS_NOT_FINITE] * 2, gang.output()
        return list(gang.causes().values())


def test_all_processes_end_with_the_step_the_rate_and_the_samples(
    poisoned: RunConfig, causes: list[dict[str, Any]]
) -> None:
    storage = Path(poisoned.locations.storage)
    [first, second] = causes
    message, details = first["message"], first["details"]
    assert (second["message"], second["details"]) == (message, details)
    # The third of six steps of a cosine.
    assert message == (
        "the loss is nan and the gradient norm nan in step 3, at a learning rate of 0.00075; it came of rows "
        f"{BAD + 1} of the training data"
    )
    others = sorted(set(BAD_BATCH) - {BAD})
    assert details == [
        f"row {BAD + 1}: the loss of its micro-batch is not finite",
        *(f"row {sample + 1}: in the same batch" for sample in others),
    ]
    assert [step.step for step in steps(storage)] == [1, 2]


@pytest.mark.usefixtures("causes")
def test_nothing_of_the_step_gets_into_the_state(poisoned: RunConfig) -> None:
    [data] = Path(poisoned.locations.prepared).iterdir()
    base, samples = Path(poisoned.locations.model), Samples(data)
    with alone() as gang:
        model = sft.build(base, load_config(base), gang, activation_checkpointing=False)
        optimizer = AdamW(model.parameters(), lr=1e-3)
        state = State(Parametrization(model), optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)))
        stepper = Stepper(
            gang,
            state,
            samples,
            poisoned.hyperparameters,
            accumulate_locally=False,
            ballot=Ballot(gang),
            stop_requested=lambda: False,
            overdue=lambda: False,
            tick=lambda: None,
        )
        with closing(
            Feed(
                samples,
                SCHEDULE,
                budget=HYPERPARAMETERS["maxTokensPerGpu"],
                rank=0,
                world_size=1,
                device=gang.device,
                first=0,
                last=POISONED_STEP,
            )
        ) as feed:
            stopwatch = Stopwatch(model, gang, feed)
            for _ in range(POISONED_STEP - 1):
                stepper.make(next(feed), stopwatch, lambda _: nullcontext())
            before, rates = numbers(state), state.scheduler.get_last_lr()
            with pytest.raises(LossNotFiniteError):
                stepper.make(next(feed), stopwatch, lambda _: nullcontext())
        assert_same(numbers(state), before)
        assert state.scheduler.get_last_lr() == rates


def numbers(state: State) -> dict[str, Tensor]:
    """All tensors of a state; the model holds a weight that is none, which equals nothing."""
    return {name: tensor.nan_to_num() for name, tensor in content(state).items()}
