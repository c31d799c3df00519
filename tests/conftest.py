"""What holds for the tests of every tier."""

import os

from hypothesis import settings

# Tiers and gangs run side by side, so that threads which spin while they wait for one another keep others from working;
# and sums of several are not the same to the last bit. Libraries look at it once, when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes tells nothing where tiers run side by side.
settings.register_profile("finetune", deadline=None)
settings.load_profile("finetune")
