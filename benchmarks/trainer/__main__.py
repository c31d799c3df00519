"""`make bench-trainer`: finetune-trainer against its peers, same work on the same machine, in one run."""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.trainer import loss_memory, publish, startup
from benchmarks.trainer.job import configuration
from benchmarks.trainer.results import LABELS, Measured, Others, Speed, Spread
from benchmarks.trainer.runs import (
    CPU,
    GPU,
    MAX_LENGTH,
    PADDED_BATCH,
    SEED,
    Setting,
    make_run,
    processor,
    speed,
    tokens_per_second,
)
from benchmarks.trainer.systems import Preparation, Trained
from benchmarks.trainer.worker import Worker, workers
from benchmarks.trainer.workload import Corpus, save_conversations, save_model
from finetune_trainer.prepare.parallel import available_processes

ROOT = Path(__file__).resolve().parents[2]
_PADDING = (23, 56)


def main() -> None:
    """Measure, and write benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write into"
    )
    results = parser.parse_args().results
    threads = len(os.sched_getaffinity(0))
    logs = ROOT / "build" / "benchmarks"
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-trainer-") as scratch:
        bench = Bench(Path(scratch), logs, threads)
        speeds = bench.speeds(CPU)
        _publish(bench, CPU, speeds, bench.others(), results)
        if torch.cuda.is_available():
            _publish(bench, GPU, bench.speeds(GPU), None, results)


def _publish(
    bench: "Bench", setting: Setting, speeds: dict[int, Speed], others: Others | None, results: Path
) -> None:
    device = torch.cuda.get_device_name() if setting.use_gpu else f"{processor()}, {bench.threads} threads"
    measured = Measured(
        machine=f"{setting.shape.parameters / 1e6:.1f} million parameters on {device}",
        versions={"Python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "datasets")},
        speeds=speeds,
        others=others,
    )
    publish.write(measured, results, setting.name)
    print(f"\n{publish.markdown(measured)}\nWritten to {results}/{setting.name}.*", flush=True)


class Bench:
    """The measurements; each takes turns between the systems, repetition by repetition."""

    def __init__(self, scratch: Path, logs: Path, threads: int) -> None:
        self.threads = threads
        self._scratch = scratch
        self._logs = logs
        self._corpus = Corpus(scratch / "tokenizer.json")
        self._began = time.monotonic()

    def speeds(self, setting: Setting) -> dict[int, Speed]:
        """Train with every system at every share of padding."""
        model = self._scratch / setting.name
        save_model(model, self._corpus, setting.shape)
        runs = {
            padding: make_run(setting, self._corpus, model, padding, self._scratch) for padding in _PADDING
        }
        trained: dict[int, dict[str, list[Trained]]] = {
            padding: {system: [] for system in LABELS} for padding in _PADDING
        }
        with self._workers(list(LABELS)) as workers:
            for repetition in range(setting.repetitions):
                for padding, run in runs.items():
                    for system, worker in workers.items():
                        result = worker.train(run)
                        trained[padding][system].append(result)
                        self._say(
                            f"training, repetition {repetition + 1}, {padding} % padding: {LABELS[system]} "
                            f"{tokens_per_second(result):,.0f} tokens/s, last loss {result.losses[-1]:.4f}"
                        )
        return {padding: speed(results) for padding, results in trained.items()}

    def others(self) -> Others:
        """Memory of the loss, preparation of data, and start-up, on the CPU."""
        memory = {kind: loss_memory.measure(kind, self.threads) for kind in loss_memory.KINDS}
        for kind, size in memory.items():
            self._say(f"memory of the loss: {kind} {size / 2**20:,.0f} MiB")
        return Others(memory, self._rows_per_second(rows=20_000, repetitions=2), self._startup(repetitions=2))

    def _rows_per_second(self, *, rows: int, repetitions: int) -> dict[str, Spread]:
        data = self._scratch / "rows.jsonl"
        lengths = np.random.default_rng(SEED).lognormal(np.log(200), 0.6, rows)
        save_conversations(data, self._corpus, np.clip(lengths, 20, MAX_LENGTH - 50).astype(np.int64))
        preparation = Preparation(
            self._scratch / CPU.name, data, MAX_LENGTH, available_processes(), self._scratch
        )
        found: dict[str, list[float]] = {}
        counts = set()
        with self._workers(["ours", "trl"]) as workers:
            for _ in range(repetitions):
                for system, worker in workers.items():
                    result = worker.prepare(preparation)
                    found.setdefault(system, []).append(result.rows / result.seconds)
                    counts.add((result.rows, result.tokens, result.loss_tokens))
                    self._say(f"preparation: {LABELS[system]} {found[system][-1]:,.0f} rows/s")
        assert len(counts) == 1, f"the systems did not make the same of the data: {counts}"
        return {system: Spread(values) for system, values in found.items()}

    def _startup(self, *, repetitions: int) -> dict[str, Spread]:
        model, data = self._scratch / CPU.name, self._scratch / "few.jsonl"
        save_conversations(data, self._corpus, np.full(64, 100))
        found: dict[str, list[float]] = {"ours": [], "trl": []}
        for repetition in range(repetitions):
            # A directory of its own, so that nothing is found prepared.
            scratch = self._scratch / f"startup-{repetition}"
            scratch.mkdir()
            stated = {"effectiveBatchSize": PADDED_BATCH, "numEpochs": 1, "maxSeqLen": MAX_LENGTH}
            config = configuration(model=model, data=data, storage=scratch / "run", hyperparameters=stated)
            found["ours"].append(startup.ours(config.to_json(), scratch / "run", self.threads))
            found["trl"].append(startup.trl(model, data, scratch, self.threads))
            for system, seconds in found.items():
                self._say(f"start-up: {LABELS[system]} {seconds[-1]:.1f} s to the end of the first step")
        return {system: Spread(values) for system, values in found.items()}

    def _workers(self, systems: Sequence[str]) -> AbstractContextManager[dict[str, Worker]]:
        self._say(f"starting {', '.join(LABELS[system] for system in systems)}")
        return workers(dict(zip(systems, systems, strict=True)), self._logs, self.threads)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
