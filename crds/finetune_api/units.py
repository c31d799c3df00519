"""Numbers as people read them."""

MIB = 2**20
GIB = 2**30


def gib(amount: float) -> str:
    """Bytes in GiB: '0.4 GiB', '23 GiB', '1,120 GiB'."""
    value = amount / GIB
    return f"{value:,.1f} GiB" if value < 10 else f"{value:,.0f} GiB"


def size(amount: float) -> str:
    """Bytes in a unit that suits: '0.2 MiB', '466 MiB', '23 GiB'."""
    value = amount / MIB
    return gib(amount) if amount >= GIB else f"{value:.1f} MiB" if value < 10 else f"{value:.0f} MiB"


def billions(count: int) -> str:
    """A number of weights: '35,168', '135 million', '1.54 billion', '70.6 billion'."""
    if count < 10**6:
        return f"{count:,}"
    if count < 10**9:
        return f"{count / 10**6:.3g} million"
    return f"{count / 10**9:.3g} billion"


def times(ratio: float) -> str:
    """How many times: '1.5', '200', '2,000'."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
