"""`make bench-trainer`: finetune-trainer against its peers, same work on the same machine, in one run."""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.trainer import loss_memory, publish, startup
from benchmarks.trainer.job import configuration
from benchmarks.trainer.results import LABELS, Measured, Others, Speed, Spread
from benchmarks.trainer.systems import Preparation, Run, Trained
from benchmarks.trainer.worker import Worker
from benchmarks.trainer.workload import (
    HALF_BILLION,
    SMALL,
    Corpus,
    Shape,
    lengths_with_padding,
    save_conversations,
    save_model,
)
from finetune_trainer.batches import Schedule
from finetune_trainer.prepare.parallel import available_processes

ROOT = Path(__file__).resolve().parents[2]
_PADDING = (23, 56)
_SEED = 42
_MAX_LENGTH = 1024
# The first step of a run pays for what is made once, such as the optimizer's state.
_WARM_UP = 1


@dataclass(frozen=True)
class Setting:
    """What is trained, and how much of it."""

    name: str
    shape: Shape
    use_gpu: bool
    batch_size: int
    token_budget: int
    mean_length: float
    steps: int
    repetitions: int


# Tokens of a forward pass: about as many as a padded batch of 8 holds.
CPU = Setting("trainer", SMALL, False, 16, 2048, 110, steps=6, repetitions=3)
GPU = Setting("trainer-gpu", HALF_BILLION, True, 64, 16_384, 400, steps=12, repetitions=3)
# TRL's own default.
_PADDED_BATCH = 8


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
    device = torch.cuda.get_device_name() if setting.use_gpu else f"{_processor()}, {bench.threads} threads"
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
        runs = {padding: self._run(setting, model, padding) for padding in _PADDING}
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
                            f"{_tokens_per_second(result):,.0f} tokens/s, last loss {result.losses[-1]:.4f}"
                        )
        return {padding: _speed(results) for padding, results in trained.items()}

    def others(self) -> Others:
        """Memory of the loss, preparation of data, and start-up, on the CPU."""
        memory = {kind: loss_memory.measure(kind, self.threads) for kind in loss_memory.KINDS}
        for kind, size in memory.items():
            self._say(f"memory of the loss: {kind} {size / 2**20:,.0f} MiB")
        return Others(memory, self._rows_per_second(rows=20_000, repetitions=2), self._startup(repetitions=2))

    def _rows_per_second(self, *, rows: int, repetitions: int) -> dict[str, Spread]:
        data = self._scratch / "rows.jsonl"
        lengths = np.random.default_rng(_SEED).lognormal(np.log(200), 0.6, rows)
        save_conversations(data, self._corpus, np.clip(lengths, 20, _MAX_LENGTH - 50).astype(np.int64))
        preparation = Preparation(
            self._scratch / CPU.name, data, _MAX_LENGTH, available_processes(), self._scratch
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
            stated = {"effectiveBatchSize": _PADDED_BATCH, "numEpochs": 1, "maxSeqLen": _MAX_LENGTH}
            config = configuration(model=model, data=data, storage=scratch / "run", hyperparameters=stated)
            found["ours"].append(startup.ours(config.to_json(), scratch / "run", self.threads))
            found["trl"].append(startup.trl(model, data, scratch, self.threads))
            for system, seconds in found.items():
                self._say(f"start-up: {LABELS[system]} {seconds[-1]:.1f} s to the end of the first step")
        return {system: Spread(values) for system, values in found.items()}

    def _run(self, setting: Setting, model: Path, padding: int) -> Run:
        samples = setting.steps * setting.batch_size
        order = Schedule(samples, setting.batch_size, _SEED).order(0)
        # A conversation comes out some tokens longer or shorter than asked for.
        in_order = lengths_with_padding(
            samples,
            padding=padding / 100,
            mean=setting.mean_length,
            longest=_MAX_LENGTH - 50,
            batch=_PADDED_BATCH,
            seed=padding,
        )
        lengths = np.empty_like(in_order)
        lengths[order] = in_order
        data = self._scratch / f"{setting.name}-{padding}.jsonl"
        save_conversations(data, self._corpus, lengths)
        return Run(
            model=model,
            data=data,
            order=order.tolist(),
            batch_size=setting.batch_size,
            padded_batch=_PADDED_BATCH,
            token_budget=setting.token_budget,
            max_length=_MAX_LENGTH,
            learning_rate=1e-3,
            seed=_SEED,
            use_gpu=setting.use_gpu,
            scratch=self._scratch,
        )

    @contextmanager
    def _workers(self, systems: Sequence[str]) -> Iterator[dict[str, Worker]]:
        self._say(f"starting {', '.join(LABELS[system] for system in systems)}")
        workers = {system: Worker(system, self._logs / f"{system}.log", self.threads) for system in systems}
        try:
            yield workers
        finally:
            for worker in workers.values():
                worker.close()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", flush=True)


def _speed(results: dict[str, list[Trained]]) -> Speed:
    tokens = {tuple(one.tokens) for repeated in results.values() for one in repeated}
    assert len(tokens) == 1, f"the systems did not train on the same tokens: {tokens}"
    reference = np.array(results["ours"][0].losses)
    return Speed(
        padding=results["trl"][0].padding,
        tokens_per_second={
            system: Spread([_tokens_per_second(one) for one in repeated])
            for system, repeated in results.items()
        },
        loss_difference={
            system: max(float(np.abs(np.array(one.losses) / reference - 1).max()) for one in repeated)
            for system, repeated in results.items()
        },
    )


def _tokens_per_second(result: Trained) -> float:
    seconds = result.step_ends[-1] - result.step_ends[_WARM_UP - 1]
    return sum(result.tokens[_WARM_UP:]) / seconds


def _processor() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
