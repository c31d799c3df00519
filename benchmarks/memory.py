"""Memory of a process, as it sees it itself."""

from pathlib import Path


class Growth:
    """What this process's resident memory grows by from now on; what it holds already is not counted."""

    def __init__(self) -> None:
        self._before = _resident("VmRSS")
        # Resets the peak to what is held now.
        Path("/proc/self/clear_refs").write_text("5")

    def at_peak(self) -> int:
        """Bytes, at the most so far."""
        return _resident("VmHWM") - self._before


def _resident(field: str) -> int:
    """Bytes that this process holds: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}")
