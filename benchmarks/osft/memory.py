"""Peak memory of a system in training: `python -m benchmarks.osft.memory SYSTEM RATIO MODEL SCRATCH`.

Each has a process of its own; what is counted is the growth of its resident memory over what it held before the model
was loaded. The peak includes decomposing the matrices.
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.memory import Growth
from benchmarks.trainer.worker import environment

# The first makes AdamW's moments.
_STEPS = 2


def measure(system: str, ratio: float, base: Path, scratch: Path, threads: int) -> int:
    """Bytes that a process of its own takes at its peak."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.osft.memory", system, str(ratio), str(base), str(scratch)],
        env={**os.environ, **environment(threads)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Libraries print what they like before it.
    return int(output.splitlines()[-1])


def main() -> None:
    """Measure one system and print the bytes."""
    from benchmarks.osft.systems import SYSTEMS, batch

    name, ratio, base, scratch = sys.argv[1:]
    growth = Growth()
    system = SYSTEMS[name](Path(base), float(ratio), Path(scratch))
    for step in range(_STEPS):
        # One micro-batch shows as much as several.
        system.step(batch(step)[:1])
    print(growth.at_peak())


if __name__ == "__main__":
    main()
