"""Progress bars of libraries: made for terminals, where the Report says more."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from transformers.utils.logging import disable_progress_bar, set_tqdm_hook


def show_by(tick: Callable[[], None]) -> None:
    """Have transformers call `tick` where it would move a progress bar on: for each weight that it loads, and the like.

    From a slow volume a large model takes many minutes.
    """
    disable_progress_bar()

    def counted(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            tick()
            yield item

    def bar(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return make(*([counted(args[0]), *args[1:]] if args else ()), **options)

    set_tqdm_hook(bar)
