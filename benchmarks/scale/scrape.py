"""Pure: what the operator's own metrics say, and what happened between two readings of them."""

import math
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """Values by name and labels."""

    values: dict[tuple[str, Labels], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series with this name and these labels; 0 without any."""
        wanted = set(labels.items())
        return sum(value for (known, has), value in self.values.items() if known == name and wanted <= has)

    def since(self, before: "Scrape") -> "Scrape":
        """By how much everything is more than it was."""
        return Scrape({key: value - before.values.get(key, 0.0) for key, value in self.values.items()})

    def quantile(self, name: str, share: float) -> float:
        """The upper bound of the bucket in which this share of a histogram's observations is reached; 0 without any."""
        counts: dict[float, float] = {}
        for (known, labels), value in self.values.items():
            if known == f"{name}_bucket":
                bound = float(dict(labels)["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        wanted = share * counts.get(math.inf, 0.0)
        return min((bound for bound, count in counts.items() if count >= wanted > 0), default=0.0)


def parse(text: str) -> Scrape:
    """Read the Prometheus text format."""
    return Scrape(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )
