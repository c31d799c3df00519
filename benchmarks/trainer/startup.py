"""From the start of a process to the end of its first optimizer step, as a user waits for it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.trainer.worker import WorkerError, environment
from finetune_api import names

_POLL_SECONDS = 0.01
# For a machine that is busy.
_PATIENCE = 300


def ours(config: str, storage: Path, threads: int) -> float:
    """Seconds of `finetune-trainer train` with a RunConfig (as JSON) of at least one step."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(config)
        file.flush()
        command = [sys.executable, "-m", "finetune_trainer", "train", "--config", file.name]
        metrics = storage / names.METRICS_FILE
        return _until(command, threads, lambda: metrics.exists() and metrics.stat().st_size > 0)


def trl(model: Path, data: Path, scratch: Path, threads: int) -> float:
    """Seconds of a script that trains with SFTTrainer."""
    done = scratch / "first-step"
    command = [sys.executable, "-m", "benchmarks.trainer.startup", str(model), str(data), str(done)]
    return _until(command, threads, done.exists)


def _until(command: list[str], threads: int, done: Callable[[], bool]) -> float:
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment(threads)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not done():
                if process.poll() is not None or time.perf_counter() - began > _PATIENCE:
                    output.seek(0)
                    tail = output.read().decode(errors="replace")[-2000:]
                    raise WorkerError(f"{command} came to no first step:\n{tail}")
                time.sleep(_POLL_SECONDS)
            return time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    """The script of a user of TRL."""
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, data, done = sys.argv[1:]

    class FirstStep(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            Path(done).touch()

    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                max_steps=1,
                assistant_only_loss=True,
                activation_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=load_dataset("json", data_files=data, split="train", cache_dir=scratch),
            callbacks=[FirstStep()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
