"""Pure: the course of training as charts."""

from collections.abc import Sequence

from finetune_api.status import FineTuneJobStatus
from finetune_operator.page.overview import View


def charts(status: FineTuneJobStatus) -> list[View]:
    """What to draw; nothing before the first step."""
    curve = status.curve
    if curve is None:
        return []
    training = curve.steps
    found = {
        ("Loss", "per token"): [
            _line("training", training, curve.loss),
            _line("validation", curve.validation_steps, curve.validation_loss, marks=True),
        ],
        ("Learning rate", None): [_line("learning rate", training, curve.learning_rate)],
        ("Throughput", "tokens/s"): [_line("tokens/s", training, curve.tokens_per_second)],
    }
    last = status.progress.total_steps if status.progress else None
    return [
        {"title": title, "unit": unit, "lines": drawn, "lastStep": last}
        for (title, unit), lines in found.items()
        # What has no number is not drawn.
        if (drawn := [line for line in lines if any(value is not None for _, value in line["points"])])
    ]


def _line(name: str, steps: Sequence[int], values: Sequence[float | None], *, marks: bool = False) -> View:
    return {"name": name, "points": list(zip(steps, values, strict=True)), "marks": marks}
