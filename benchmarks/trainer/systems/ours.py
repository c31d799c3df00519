"""finetune-trainer: a whole training process, as the first process of a pod starts one that trains alone."""

import os
import sys
import time
from pathlib import Path

from benchmarks.trainer.job import configuration
from benchmarks.trainer.ports import free_port
from benchmarks.trainer.systems import Preparation, Prepared, Run, Trained
from finetune_api import names
from finetune_api.evaluation import TRAIN
from finetune_api.report import Report, StepRecord
from finetune_trainer import checks
from finetune_trainer.batches import Schedule
from finetune_trainer.ends.stopping import StopRequest
from finetune_trainer.prepare.data_sets import open_all, prepare_all
from finetune_trainer.train import train


class Ours:
    """This repository's trainer."""

    def train(self, run: Run) -> Trained:
        """Train, as one process of a gang of one."""
        config = configuration(
            model=run.model,
            data=run.data,
            storage=run.scratch / "run",
            use_gpu=run.use_gpu,
            lora=run.lora,
            hyperparameters={
                "learningRate": run.learning_rate,
                "effectiveBatchSize": run.batch_size,
                "numEpochs": 1,
                "maxSeqLen": run.max_length,
                "maxTokensPerGpu": run.token_budget,
                "lrScheduler": "constant",
                "seed": run.seed,
            },
        )
        os.environ |= {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        checks.check(config, node=0)
        nowhere = run.scratch / "none"
        train(config, attempt=1, ca=nowhere, token=nowhere, stop=StopRequest(sys.exit))
        storage = run.scratch / "run"
        steps = _steps(storage)
        assert len(steps) == run.steps, (len(steps), run.steps)
        report = Report.model_validate_json((storage / names.REPORT_FILE).read_bytes())
        assert report.dataset is not None
        data = open_all(config, {TRAIN: report.dataset.digest})
        assert data is not None
        samples = data.train.samples
        schedule = Schedule(len(samples), run.batch_size, run.seed)
        lengths = [samples.lengths[schedule.batch(step).samples] for step in range(run.steps)]
        return Trained(
            losses=[step.loss for step in steps if step.loss is not None],
            step_ends=[step.time.timestamp() for step in steps],
            tokens=[int(of_step.sum()) for of_step in lengths],
            padding=0.0,
        )

    def prepare(self, preparation: Preparation) -> Prepared:
        """Run the preparation stage: read, validate, render, mask, tokenise, measure, store and seal."""
        config = configuration(
            model=preparation.model,
            data=preparation.data,
            storage=preparation.scratch / "run",
            hyperparameters={"maxSeqLen": preparation.max_length},
        )
        began = time.perf_counter()
        status = prepare_all(config, preparation.max_length, lambda _: None).train.status
        return Prepared(
            seconds=time.perf_counter() - began,
            rows=status.samples,
            tokens=status.tokens,
            loss_tokens=status.loss_tokens,
        )


def _steps(storage: Path) -> list[StepRecord]:
    lines = (storage / names.METRICS_FILE).read_text().splitlines()
    return [StepRecord.model_validate_json(line) for line in lines]
