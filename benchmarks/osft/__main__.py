"""`make bench-osft`: what osft costs, beside dense layers, sft, and other implementations of orthogonal subspaces.

Written to benchmarks/results/osft.md and osft.json.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.osft import decomposing, layers, memory, steps, systems
from benchmarks.osft.publish import Found, figures, markdown
from benchmarks.trainer.workload import llama

RESULTS = Path(__file__).resolve().parent.parent / "results"
RATIO = 0.5


def main() -> None:
    """Measure, and write down."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="bench-osft-") as directory:
        scratch = Path(directory)
        say("decomposing")
        llama(systems.DECOMPOSED).save_pretrained(scratch / "larger")
        decomposed = [
            decomposing.measure(scratch / "larger", scratch / f"dealt-to-{hands}", hands) for hands in (1, 2)
        ]
        base = scratch / "model"
        llama(systems.SHAPE).save_pretrained(base)
        say("memory")
        peaks = {
            system: memory.measure(system, RATIO, base, scratch / f"memory-{number}", threads)
            for number, system in enumerate(systems.SYSTEMS)
        }
        say("whole steps")
        whole = steps.measure(base, scratch / "steps")
    say("single layers")
    single = layers.measure()
    found = Found(threads, single, layers.leaks(), whole, peaks, decomposed)
    RESULTS.mkdir(exist_ok=True)
    rounded = {key: round(value, 4) for key, value in figures(found).items()}
    (RESULTS / "osft.json").write_text(json.dumps(rounded, indent=1) + "\n")
    text = markdown(found)
    (RESULTS / "osft.md").write_text(text)
    say("done")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
