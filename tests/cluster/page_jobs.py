"""FineTuneJobs in several phases, as a team would have them, for whoever looks at the page."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.kube import Namespace, eventually
from cluster.operators import Operator
from finetune_api.evaluation import VALIDATION
from finetune_api.failure import ExitCode
from finetune_api.report import Failure, Metrics, Report, Stage
from finetune_api.scores import Evaluated, SetScore, status_of, with_changes
from finetune_api.status import (
    Advice,
    Checkpoint,
    Choice,
    DatasetStatus,
    Lengths,
    MemoryEstimate,
    MemoryParts,
    MicroBatches,
    Output,
    Plan,
)
from finetune_api.thinning import Course
from world import INLINE

GIB = 2**30
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
TOTAL_STEPS = 1240
SAVED_EVERY = 200
PLAN = Plan(
    learning_rate=5e-6,
    effective_batch_size=128,
    num_epochs=2,
    max_seq_len=4096,
    max_tokens_per_gpu=16384,
    activation_checkpointing=True,
    accumulate_locally=False,
    world_size=16,
    micro_batches_per_step=MicroBatches(min=2, mean=2.4, max=3),
    steps_per_epoch=620,
    total_steps=TOTAL_STEPS,
    trainable_parameters=1_540_000_000,
    memory_per_gpu=MemoryEstimate(
        estimate=31 * GIB,
        low=27 * GIB,
        high=36 * GIB,
        parts=MemoryParts(
            weights=6 * GIB,
            gradients=5 * GIB,
            optimizer=9 * GIB,
            activations=6 * GIB,
            logits=2 * GIB,
            framework=3 * GIB,
        ),
    ),
    checkpoint_bytes=3_090_000_000,
    resume_bytes=15_400_000_000,
    storage_bytes=62_000_000_000,
    chosen=[
        Choice(
            field="spec.hyperparameters.learningRate",
            value=5e-6,
            reason="for osft, a gentle start that keeps what the model knows",
        ),
        Choice(
            field="spec.hyperparameters.effectiveBatchSize",
            value=128,
            reason="suits 79,360 samples: about 600 steps per epoch",
        ),
        Choice(field="spec.osft.unfreezeRankRatio", value=0.25, reason="the guide's middle of 0.1 to 0.5"),
    ],
    warnings=[
        Advice(
            rule="epochs",
            field="spec.hyperparameters.numEpochs",
            message="With 79,360 samples, one epoch is often enough: watch the validation loss in the second one.",
        )
    ],
)
DATASET = DatasetStatus(
    samples=79_360,
    dropped=212,
    tokens=61_000_000,
    loss_tokens=22_400_000,
    longest=4090,
    lengths=Lengths(p50=640, p95=2210, p99=3680, max=9120),
    duplicates=31,
    digest="5c1c",
    path="prepared/5c1c",
)


def step(number: int) -> Metrics:
    """What a step showed: a loss that falls with some noise, a cosine with a warm-up, an even speed."""
    noise = 0.06 * math.sin(number * 1.7) * math.cos(number * 0.61) + 0.03 * math.sin(number * 0.13)
    warm = min(1.0, number / 60)
    return Metrics(
        step=number,
        epoch=number / 620,
        loss=1.05 + 1.25 * math.exp(-number / 190) + noise,
        learning_rate=5e-6 * warm * (0.5 + 0.5 * math.cos(math.pi * number / TOTAL_STEPS)),
        grad_norm=0.8 + 0.2 * math.sin(number),
        tokens_per_second=118_000 + 4_000 * math.sin(number / 25) - (30_000 if number % 310 < 6 else 0),
        samples=128,
        samples_seen=128 * number,
        peak_memory=int(29.4 * GIB),
        mfu=0.412,
    )


def evaluated(number: int) -> Evaluated:
    """How the model does after a step."""

    def score(name: str, loss: float, tokens: int) -> SetScore:
        return SetScore.of(
            name, loss_sum=loss * tokens, correct=int(tokens * math.exp(-loss / 2)), tokens=tokens
        )

    found = Evaluated(
        step=number,
        epoch=number / 620,
        time=datetime.now(UTC) - timedelta(seconds=TOTAL_STEPS - number),
        sets=[
            score(VALIDATION, 1.12 + 1.2 * math.exp(-number / 210), 410_000),
            score("general", 2.05 + 0.00003 * number, 96_000),
        ],
    )
    return found if number == 0 else with_changes(found, evaluated(0))


def told(done: int, *, attempt: int = 1, sequence: int = 1, **fields: Any) -> Report:
    """The Report after so many steps."""
    steps = [step(number) for number in range(1, done + 1)]
    judged = [evaluated(number) for number in range(0, done + 1, SAVED_EVERY)]
    return Report.model_validate(
        {
            "attempt": attempt,
            "sequence": sequence,
            "stage": Stage.TRAINING,
            "metrics": steps[-1] if steps else None,
            "initial_loss": 2.3,
            "curve": Course(steps).curve(judged),
            "seconds_remaining": 13.2 * (TOTAL_STEPS - done),
            "plan": PLAN,
            "dataset": DATASET,
            "evaluation": status_of(judged),
            "checkpoints": [saved(number) for number in range(SAVED_EVERY, done + 1, SAVED_EVERY)],
        }
        | fields
    )


def saved(number: int) -> Checkpoint:
    """A checkpoint of that step: the newest steps are those of the newest times."""
    return Checkpoint(
        name=f"checkpoints/step-{number:08}",
        step=number,
        epoch=round(number / 620, 2),
        kind="weights",
        path=f"support/checkpoints/step-{number:08}",
        bytes=3_090_000_000,
        time=datetime.now(UTC) - timedelta(seconds=13 * (TOTAL_STEPS - number)),
        validation_loss=round(evaluated(number).validation_loss or 0, 4),
        best=True if number == TOTAL_STEPS // SAVED_EVERY * SAVED_EVERY else None,
    )


def spec(model: str = "qwen2.5-1.5b-instruct", **parts: Any) -> dict[str, Any]:
    """What a team would ask for."""
    return {
        "method": "osft",
        "model": {"volume": {"claimName": "models", "path": model}},
        "dataset": INLINE,
        "storage": {"claimName": "runs", "path": "support"},
        "resources": {"nodes": 2, "gpusPerNode": 8, "gpuMemory": "80Gi"},
    } | parts


class Team:
    """A namespace with its jobs."""

    def __init__(self, namespace: Namespace, operator: Operator) -> None:
        self.namespace = namespace
        self._operator = operator

    def start(self, name: str, *, attempt: int = 1, **parts: Any) -> None:
        """Have a job's gang run."""
        if attempt == 1:
            self.namespace.submit(name, **spec(**parts))
        self.namespace.run_pods(self.namespace.pods(name, attempt=attempt))

    def tell(self, name: str, report: Report) -> None:
        """Have rank 0 report, and see it in the status."""
        [rank_0, _] = self.namespace.pods(name, attempt=report.attempt)
        answer = self._operator.post(self.namespace.name, name, report, token=self.namespace.token(rank_0))
        assert answer[0] == 200, answer
        done = report.metrics.step if report.metrics else 0
        eventually(lambda: self.namespace.status(name)["progress"]["step"] == done)

    def end(self, name: str, report: Report) -> None:
        """Have the gang end with this as its last word."""
        code = report.failure.exit_code if report.failure else 0
        for pod in self.namespace.pods(name, attempt=report.attempt):
            self.namespace.end_pod(pod, code, report.to_termination_message())

    def everything(self) -> None:
        """Jobs of every kind of end, one that trains for the second time, and some that wait."""
        self.namespace.submit("nightly-refresh", **spec(suspend=True))
        self.namespace.submit("catalog-tagging", **spec(scheduling={"queueName": "team"}))
        self.namespace.in_phase("Queued", "catalog-tagging")
        self.start("intent-lora", model="llama-3.1-8b", method="lora")
        self.tell("intent-lora", told(TOTAL_STEPS))
        output = Output(path="support/output", format="adapter", bytes=84_000_000)
        self.end("intent-lora", told(TOTAL_STEPS, sequence=2, stage=Stage.FINISHED, output=output))
        self.namespace.in_phase("Succeeded", "intent-lora")
        self.start("hostile", model="<b>bold</b>")
        why = Failure.of(ExitCode.INVALID_DATA, f"dataset.train: line 7 is no sample: {HOSTILE}", log=HOSTILE)
        self.end("hostile", Report(attempt=1, sequence=1, stage=Stage.FAILED, failure=why))
        self.namespace.in_phase("Failed", "hostile")
        self.start("support-osft")
        self.tell("support-osft", told(620))
        lost = Failure.of(
            ExitCode.COLLECTIVE_TIMEOUT,
            "a collective did not end in time: another process was lost",
            log="[rank3]: Watchdog caught collective operation timeout: ALLREDUCE ran for 600012 ms\n"
            "[rank3]: terminating",
        )
        self.end("support-osft", told(640, sequence=2, stage=Stage.FAILED, failure=lost))
        self.start("support-osft", attempt=2)
        self.tell("support-osft", told(840, attempt=2, resumed_from_step=600))
