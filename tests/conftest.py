"""What holds for the tests of every tier."""

from hypothesis import settings

# How long an example takes tells nothing where tiers run side by side.
settings.register_profile("finetune", deadline=None)
settings.load_profile("finetune")
