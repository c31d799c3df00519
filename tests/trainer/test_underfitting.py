"""Advice to runs that underfit, by real ones: too little rank for what is to be learnt, and enough for what is easy."""

import json
import random
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from finetune_api.methods import Lora
from finetune_api.status import Advice
from tiny import conversation, save_chat_data, save_tiny_model
from trainer import forked, gangs

SAMPLES, BATCH = 48, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, `easy.jsonl` of one letter again and again, and `hard.jsonl` of letters by chance."""
    base = tmp_path_factory.mktemp("underfitting")
    save_tiny_model(base / "model")
    # A head that is frozen as it is drawn can say nothing for sure, whatever adapters do: let it say more.
    weights = load_file(base / "model" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] *= 8
    save_file(weights, base / "model" / "model.safetensors", metadata={"format": "pt"})
    save_chat_data(base / "easy.jsonl", samples=SAMPLES)
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [conversation("say", "".join(draw.choices(letters, k=20))) for _ in range(SAMPLES)]
    (base / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return base


def advice(base: Path, name: str, *, r: int, epochs: int, nodes: int = 1) -> list[Advice]:
    """What a run on the data of that name is told of its course in the end."""
    run = gangs.config(
        base,
        name=name,
        nodes=nodes,
        data=f"{name}.jsonl",
        every_epoch=False,
        learningRate=1e-2,
        lrScheduler="constant",
        effectiveBatchSize=BATCH,
        numEpochs=epochs,
        maxSeqLen=128,
        maxTokensPerGpu=512,
    )
    forked.train(run.model_copy(update={"method": "lora", "lora": Lora(r=r)}))
    plan = gangs.kept_report(base / name).plan
    assert plan is not None
    return [each for each in plan.warnings if each.rule.startswith("lora-underfits")]


def test_a_run_whose_loss_stays_high_is_told_what_to_raise(base: Path) -> None:
    [told] = advice(base, "hard", r=1, epochs=5, nodes=2)
    assert told.rule == "lora-underfits"
    assert "set 32 or 64" in told.message
    # The rate is beyond where it may be raised to.
    assert "learningRate" not in told.message
    losses = [loss for loss in gangs.losses(base / "hard") if loss is not None]
    newest = losses[-SAMPLES // BATCH :]
    assert f"is {sum(newest) / len(newest):.2f} over as many later ones" in told.message


def test_a_run_that_learns_is_told_nothing(base: Path) -> None:
    assert advice(base, "easy", r=16, epochs=4) == []
