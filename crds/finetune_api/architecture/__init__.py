"""The shapes of a base model: exactly, from its config.json, or as its name lets expect."""

from finetune_api.architecture.by_size import named_size, typical
from finetune_api.architecture.config_fields import ArchitectureError
from finetune_api.architecture.reading import from_config
from finetune_api.architecture.shapes import Architecture, Linear

__all__ = ["Architecture", "ArchitectureError", "Linear", "from_config", "named_size", "typical"]
