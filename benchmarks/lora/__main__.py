"""`make bench-lora`: adapters by finetune-trainer and by TRL with peft, same work on the same machine, in one run.

Written to benchmarks/results/lora.md and lora.json.
"""

import argparse
import os
import platform
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.lora import exchange, publish, sizes
from benchmarks.lora.comparison import CASES, LABELS, OURS, SFT, SYSTEMS, Apart, Case, Compared, Measured
from benchmarks.trainer import runs
from benchmarks.trainer.ports import free_port
from benchmarks.trainer.runs import PADDED_BATCH, Setting, make_run, processor, speed, tokens_per_second
from benchmarks.trainer.systems import Trained
from benchmarks.trainer.worker import workers
from benchmarks.trainer.workload import Corpus, Shape, save_model

ROOT = Path(__file__).resolve().parents[2]
CPU = replace(runs.CPU, name="lora", steps=4)
GPU = replace(runs.GPU, name="lora-gpu")
# What a process trains before it is measured, for libraries to be imported and threads to be there.
_FIRST = Shape(
    width=64, layers=1, heads=1, key_value_heads=1, feed_forward=128, vocabulary=CPU.shape.vocabulary
)


class Bench:
    """The measurements of one setting; each takes turns between the systems, repetition by repetition."""

    def __init__(self, setting: Setting, scratch: Path, logs: Path, threads: int) -> None:
        self._setting = setting
        self._scratch, self._logs, self._threads = scratch, logs, threads
        self._corpus = Corpus(scratch / "tokenizer.json")
        self._model, self._small = scratch / setting.name, scratch / "first"
        self._began = time.monotonic()
        save_model(self._model, self._corpus, setting.shape)
        save_model(self._small, self._corpus, _FIRST)

    def compare(self, case: Case) -> Compared:
        """Train with every system of a case."""
        first = make_run(
            replace(self._setting, name="first", steps=1),
            self._corpus,
            self._small,
            case.padding,
            self._scratch,
        )
        # A pass of ours has as many tokens as one of TRL's has with its padding: memory can be compared.
        budget = round(PADDED_BATCH * self._setting.mean_length / (1 - case.padding / 100))
        setting = replace(self._setting, token_budget=budget)
        run = make_run(setting, self._corpus, self._model, case.padding, self._scratch)
        trained: dict[str, list[Trained]] = {system: [] for system in case.systems}
        with workers(
            {system: SYSTEMS[system] for system in case.systems}, self._logs, self._threads
        ) as started:
            for system, worker in started.items():
                worker.train(replace(first, lora=case.lora_of(system)))
            for repetition in range(self._setting.repetitions):
                for system, worker in started.items():
                    result = worker.train(replace(run, lora=case.lora_of(system)))
                    trained[system].append(result)
                    self._say(
                        f"{case.about}, {case.padding} % padding, repetition {repetition + 1}: {LABELS[system]} "
                        f"{tokens_per_second(result):,.0f} tokens/s, {result.peak_memory / 2**20:,.0f} MiB"
                    )
        return Compared(
            speed(trained),
            # Later runs find memory that earlier ones have left.
            {system: results[0].peak_memory for system, results in trained.items()},
        )

    def apart(self) -> Apart:
        """The exchange, and how large what is written is."""
        found = {}
        data = make_run(
            replace(self._setting, name="sizes", steps=1), self._corpus, self._model, 23, self._scratch
        ).data
        for system, lora in ((OURS, {}), (SFT, None)):
            scratch = self._scratch / f"sizes-{system}"
            scratch.mkdir()
            found[system] = sizes.measure(self._model, data, scratch, lora, self._threads)
            self._say(f"{LABELS[system]} writes {found[system].result / 2**20:,.1f} MiB")
        exchanged = exchange.measure(self._model, free_port())
        self._say(f"the exchange takes {exchanged.share:.1%} of a step")
        return Apart(exchanged, found)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {text}", flush=True)


def main() -> None:
    """Measure, and write benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder to write into"
    )
    results = parser.parse_args().results
    threads = len(os.sched_getaffinity(0))
    logs = ROOT / "build" / "benchmarks"
    logs.mkdir(parents=True, exist_ok=True)
    for setting in (CPU, GPU) if torch.cuda.is_available() else (CPU,):
        device = torch.cuda.get_device_name() if setting.use_gpu else f"{processor()}, {threads} threads"
        with tempfile.TemporaryDirectory(prefix="bench-lora-") as scratch:
            bench = Bench(setting, Path(scratch), logs, threads)
            measured = Measured(
                machine=f"{setting.shape.parameters / 1e6:.1f} million frozen parameters on {device}",
                versions={"Python": platform.python_version()}
                | {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
                cases=[(case, bench.compare(case)) for case in CASES],
                apart=None if setting.use_gpu else bench.apart(),
            )
        publish.write(measured, results, setting.name)
        print(f"\n{publish.markdown(measured)}\nWritten to {results}/{setting.name}.*", flush=True)


if __name__ == "__main__":
    main()
