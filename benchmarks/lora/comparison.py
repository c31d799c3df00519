"""What is compared, and what was found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.lora.exchange import Exchange
from benchmarks.lora.sizes import Sizes
from benchmarks.trainer.results import Speed

OURS, TRL, PADDING_FREE, SFT = "ours", "trl", "trl_padding_free", "sft"
LABELS = {
    OURS: "finetune-trainer, lora",
    TRL: "TRL SFTTrainer and peft",
    PADDING_FREE: "TRL SFTTrainer and peft, padding_free",
    SFT: "finetune-trainer, sft",
}
# As the workers know them.
SYSTEMS = {OURS: "ours", TRL: "trl", PADDING_FREE: "trl-padding-free", SFT: "ours"}


@dataclass(frozen=True)
class Case:
    """One kind of adapters on one kind of data."""

    key: str
    """Of its figures, after those of others; the headline has none."""
    about: str
    padding: int
    """Percent of what batches of 8 hold."""
    lora: Mapping[str, Any]
    """spec.lora of the job."""
    systems: tuple[str, ...]

    def lora_of(self, system: str) -> Mapping[str, Any] | None:
        """The same, of one of the systems."""
        return None if system == SFT else self.lora


CASES = (
    Case("", "fp32", 23, {}, (OURS, TRL, PADDING_FREE, SFT)),
    Case("_at_56pct_padding", "fp32", 56, {}, (OURS, TRL, PADDING_FREE)),
    Case("_in_4_bits", "4 bits", 23, {"loadIn4Bit": True}, (OURS, TRL)),
)


@dataclass(frozen=True)
class Compared:
    """What came of a case, by system."""

    speed: Speed
    memory: dict[str, int]
    """Bytes at the peak."""


@dataclass(frozen=True)
class Apart:
    """What is measured of ours alone, on the CPU."""

    exchange: Exchange
    sizes: dict[str, Sizes]
    """Of OURS and SFT."""


@dataclass(frozen=True)
class Measured:
    """A whole benchmark."""

    machine: str
    versions: dict[str, str]
    cases: list[tuple[Case, Compared]]
    apart: Apart | None


def figures(measured: Measured) -> dict[str, float]:
    """Ratios of ours to others, each the median over repetitions of what took turns."""
    found: dict[str, float] = {}
    for case, compared in measured.cases:
        speeds, memory = compared.speed.tokens_per_second, compared.memory
        for other in case.systems[1:]:
            found[f"tokens_per_s_vs_{other}{case.key}"] = speeds[OURS].over(speeds[other])
            found[f"peak_memory_vs_{other}{case.key}"] = memory[OURS] / memory[other]
    if apart := measured.apart:
        adapters, weights = apart.sizes[OURS], apart.sizes[SFT]
        found["result_bytes_vs_sft"] = adapters.result / weights.result
        found["state_bytes_vs_sft"] = adapters.state / weights.state
        found["exchange_share_of_step"] = apart.exchange.share
    return found
