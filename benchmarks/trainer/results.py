"""What was measured, and what follows from it."""

from dataclasses import dataclass
from statistics import median

LABELS = {
    "ours": "finetune-trainer",
    "trl": "TRL SFTTrainer",
    "trl-padding-free": "TRL SFTTrainer, padding_free",
    "padded-loop": "padded Trainer loop",
}


_SPEED_TARGETS = {23: 1.25, 56: 2.2}


@dataclass(frozen=True)
class Spread:
    """Repetitions of one measurement."""

    values: list[float]

    @property
    def median(self) -> float:
        """The value that is reported."""
        return median(self.values)

    def over(self, other: "Spread") -> float:
        """The ratio of two systems that took turns: what disturbed one repetition of both drops out."""
        return median(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))

    def __str__(self) -> str:
        """The median, with the lowest and the highest."""
        return f"{_short(self.median)} ({_short(min(self.values))} to {_short(max(self.values))})"


@dataclass(frozen=True)
class Speed:
    """Training at one share of padding, by system."""

    padding: float
    """Share of padding in TRL's batches, as measured."""
    tokens_per_second: dict[str, Spread]
    loss_difference: dict[str, float]
    """Largest relative difference of a step's loss from ours."""


@dataclass(frozen=True)
class Others:
    """What else than speed is measured, on the CPU."""

    loss_memory: dict[str, int]
    """By kind, bytes."""
    rows_per_second: dict[str, Spread]
    startup_seconds: dict[str, Spread]


@dataclass(frozen=True)
class Measured:
    """A whole benchmark."""

    machine: str
    versions: dict[str, str]
    speeds: dict[int, Speed]
    """By intended padding in percent."""
    others: Others | None


@dataclass(frozen=True)
class Ratio:
    """One number to be held to."""

    key: str
    about: str
    value: float
    target: float | None
    at_most: bool = False
    """Whether less is better."""

    @property
    def met(self) -> bool:
        """Whether the target is met; what has none always is."""
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def bound(self) -> str:
        """The target, as people read it."""
        if self.target is None:
            return "none set"
        return f"{'at most' if self.at_most else 'at least'} {self.target:.2f}"


def ratios(measured: Measured) -> list[Ratio]:
    """What the benchmark is for."""
    found = [
        Ratio(
            f"tokens_per_s_vs_{system.replace('-', '_')}_at_{padding}pct_padding",
            f"tokens/s against {LABELS[system]} at {padding} % padding",
            speed.tokens_per_second["ours"].over(theirs),
            # Who does not pad is a peer, not a target.
            None if system == "trl-padding-free" else _SPEED_TARGETS[padding],
        )
        for padding, speed in measured.speeds.items()
        for system, theirs in speed.tokens_per_second.items()
        if system != "ours"
    ]
    return found + (_other_ratios(measured.others) if measured.others else [])


def _other_ratios(others: Others) -> list[Ratio]:
    memory, rows, startup = others.loss_memory, others.rows_per_second, others.startup_seconds
    return [
        Ratio(
            "loss_peak_memory_vs_floor",
            "peak memory of the loss against the floor",
            memory["ours"] / memory["floor"],
            1.05,
            at_most=True,
        ),
        Ratio(
            "loss_peak_memory_vs_full_logits",
            "peak memory of the loss against full logits",
            memory["ours"] / memory["full"],
            None,
            at_most=True,
        ),
        Ratio(
            "prepare_rows_per_s_vs_trl",
            "rows/s of preparation against TRL",
            rows["ours"].over(rows["trl"]),
            None,
        ),
        Ratio(
            "startup_seconds_vs_trl",
            "seconds to the first step against TRL",
            startup["ours"].over(startup["trl"]),
            None,
            at_most=True,
        ),
    ]


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
