"""Runs that are evaluated, on data that they get worse at after a while."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.evaluation import VALIDATION, Evaluation
from finetune_api.methods import Lora
from finetune_api.runconfig import RunConfig
from finetune_api.sources import DataSource
from finetune_api.spec import Checkpoints
from tiny import conversation, save_chat_data, save_tiny_model
from trainer import gangs
from trainer.survival import BATCH, SAMPLES, Course

EPOCHS, STEPS = 6, 24
EVERY = 2
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 3e-3,
    # So that a step is the same however many come after it.
    "lrScheduler": "constant",
    "effectiveBatchSize": BATCH,
    "numEpochs": EPOCHS,
    "maxSeqLen": 128,
    "maxTokensPerGpu": 128,
}
PATIENCE = 3


def save_inputs(base: Path) -> None:
    """A tiny model, data to train it on, and validation data that have little in common with them."""
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    rows = [conversation("say", "zyx" * 3 + "w" * number) for number in range(6)]
    (base / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def judged(run: RunConfig, evaluation: dict[str, Any]) -> RunConfig:
    """The run with validation data."""
    volume = {"claimName": "data", "path": "validation.jsonl"}
    file = Path(run.locations.model).parent / "validation.jsonl"
    return run.model_copy(
        update={
            "dataset": run.dataset.model_copy(
                update={"validation": DataSource.model_validate({"volume": volume})}
            ),
            "locations": run.locations.model_copy(
                update={"data": run.locations.data | {VALIDATION: [str(file)]}}
            ),
            "evaluation": Evaluation.model_validate(evaluation),
        }
    )


@dataclass
class Judged(Course):
    """Such a run, attempt by attempt."""

    checkpoints: dict[str, Any] = field(default_factory=lambda: {"everyEpoch": False})
    evaluation: dict[str, Any] | None = field(
        default_factory=lambda: {"everySteps": EVERY, "earlyStopping": {"patience": PATIENCE}}
    )
    """As in the spec; None: without validation data."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def config(self, world_size: int) -> RunConfig:
        """What a gang of so many processes is started with."""
        stated = HYPERPARAMETERS | self.hyperparameters
        run = gangs.config(self.base, name=self.name, nodes=world_size, **stated)
        if self.evaluation is not None:
            run = judged(run, self.evaluation)
        checkpoints = Checkpoints.model_validate(self.checkpoints)
        lora = Lora(r=4) if self.method == "lora" else None
        return run.model_copy(update={"method": self.method, "checkpoints": checkpoints, "lora": lora})

    @property
    def evaluations(self) -> Path:
        """The file of one line per evaluation."""
        return self.storage / names.EVALUATIONS_FILE

    def scores(self) -> dict[int, float]:
        """The validation loss of each evaluation, by its step."""
        lines = [json.loads(line) for line in self.evaluations.read_text().splitlines()]
        assert len({line["step"] for line in lines}) == len(lines), "each is there once"
        return {line["step"]: line["sets"][0]["loss"] for line in lines}

    def kept(self) -> list[str]:
        """The checkpoints that are left."""
        return sorted(path.name for path in (self.storage / names.CHECKPOINTS_DIR).glob("*"))
