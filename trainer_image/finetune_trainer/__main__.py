"""`python -m finetune_trainer`, where the command is not on the PATH."""

from finetune_trainer.main import main

main()
