"""What libraries say in the log of a training process that tells nobody anything, and is left out."""

import logging
import warnings

# How lines begin, by the loggers that they come from.
_LINES = {
    # It looks for kernels that nobody needs for training, and has others where there are none.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
    # That is how 8-bit layers work, and they say so for every one of them in every pass.
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
}


def leave_out_noise() -> None:
    """Leave those lines out of what this process logs. To be called before the libraries are imported."""
    for logger, line in _LINES.items():
        logging.getLogger(logger).addFilter(_Without(line))
    # peft asks transformers by the old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


class _Without(logging.Filter):
    def __init__(self, line: str) -> None:
        super().__init__()
        self._line = line

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._line)
