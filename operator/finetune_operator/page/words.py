"""Pure: numbers and times as the page shows them."""

from datetime import datetime

NONE = "–"


def figure(value: float | None, digits: int = 4) -> str:
    """A measurement: '2.345', '5e-6', '12,345'."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}".replace("e-0", "e-")


def count(value: int | None) -> str:
    """A number of things: '12,345'."""
    return NONE if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """A share in percent: '56.1 %'."""
    return NONE if value is None else f"{value:.1%}".replace("%", " %")


def moment(time: datetime | None) -> str | None:
    """A time for the browser, which tells how long ago it was."""
    return None if time is None else time.isoformat()
