"""What kopf is told about the watches."""

import itertools
from collections.abc import Iterable
from unittest.mock import Mock

from finetune_operator.handlers import settings
from finetune_operator.monitoring.watch_health import TOLERANCE_SECONDS


def test_watches_are_tried_for_without_end_and_never_rarely() -> None:
    backoffs = settings(Mock()).networking.error_backoffs
    assert isinstance(backoffs, Iterable)
    for _ in range(2):
        tries = list(itertools.islice(backoffs, 1000))
        assert len(tries) == 1000
        # Two tries in the time after which a watch that brings nothing is called dead.
        assert max(tries) < TOLERANCE_SECONDS / 2
