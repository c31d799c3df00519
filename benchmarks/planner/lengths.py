"""Lengths of samples as data sets have them."""

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int32]


def chat(draw: np.random.Generator, samples: int, longest: int) -> Lengths:
    """Conversations: log-normal, as instruction data are."""
    return _within(draw.lognormal(np.log(350), 1.0, samples), longest)


def bimodal(draw: np.random.Generator, samples: int, longest: int) -> Lengths:
    """Short questions, and every third sample a document that is asked about."""
    short = draw.normal(200, 60, samples)
    long = draw.normal(0.6 * longest, 0.1 * longest, samples)
    return _within(np.where(draw.random(samples) < 1 / 3, long, short), longest)


def long_tail(draw: np.random.Generator, samples: int, longest: int) -> Lengths:
    """Mostly short, and now and then as long as may be: Pareto."""
    return _within(150 * (1 + draw.pareto(1.1, samples)), longest)


def uniform(draw: np.random.Generator, samples: int, longest: int) -> Lengths:
    """Everything alike up to the longest: the hardest to pack into a budget of one sample."""
    return _within(draw.uniform(1, longest + 1, samples), longest)


def blocks(draw: np.random.Generator, samples: int, longest: int) -> Lengths:
    """Pretraining: all of the same length."""
    return np.full(samples, longest, np.int32)


DISTRIBUTIONS = {
    "chat": chat,
    "bimodal": bimodal,
    "long tail": long_tail,
    "uniform": uniform,
    "blocks": blocks,
}


def _within(lengths: npt.NDArray[np.float64], longest: int) -> Lengths:
    return np.clip(lengths, 8, longest).astype(np.int32)
