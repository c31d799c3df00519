"""Rules about maxSeqLen, blocks and unmasking."""

from typing import Any

import pytest

from advice import LARGE, SMALL, data, named, recipe, told
from finetune_api import guide

LENGTHS = (300, 900, 1_200, 1_500)


def length(tokens: int) -> dict[str, Any]:
    return {"hyperparameters": {"maxSeqLen": tokens}}


def blocks(size: int) -> dict[str, Any]:
    return {"hyperparameters": {"pretraining": {"blockSize": size}}}


def test_every_sample_is_kept_as_far_as_the_context_reaches() -> None:
    facts = data(lengths=(300, 900, 1_200, 9_000))
    for model, tokens in ((SMALL, 9_000), (LARGE, 8_192), (None, 9_000), (named("some-8b"), 9_000)):
        chosen = guide.max_seq_len(recipe(), model, facts)
        assert chosen is not None
        assert chosen.value == tokens
    cut = guide.max_seq_len(recipe(), LARGE, facts)
    assert cut is not None
    assert "the longest sample has 9,000 tokens" in cut.reason


def test_no_length_is_chosen_for_unmeasured_data_or_documents() -> None:
    assert guide.max_seq_len(recipe(), SMALL, None) is None
    assert guide.max_seq_len(recipe(), SMALL, data()) is None
    assert guide.max_seq_len(recipe(**blocks(2048)), SMALL, data(lengths=LENGTHS)) is None


def test_more_than_5_percent_lost_are_a_warning_with_the_lengths_that_keep_them() -> None:
    said = told(data=data(900, dropped=100, lengths=LENGTHS), **length(800))
    assert said["max-seq-len-drops-many"] == (
        "100 of 1,000 samples (10.0%) are longer than 800 tokens and left out: 900 keeps 95%, 1200 keeps 99%, "
        "1500 keeps all"
    )
    assert "max-seq-len-drops-few" not in said


def test_up_to_5_percent_lost_are_a_note() -> None:
    said = told(data=data(950, dropped=50, lengths=LENGTHS), **length(900))
    assert "max-seq-len-drops-many" not in said
    assert "(5.0%)" in said["max-seq-len-drops-few"]
    assert said["max-seq-len-drops-few"].endswith("left out: 1200 keeps 99%, 1500 keeps all")


def test_no_length_beyond_the_context_is_advised() -> None:
    facts = data(900, dropped=100, lengths=(300, 3_000, 5_000, 9_000))
    said = told(data=facts, model=LARGE, **length(2_048))
    assert said["max-seq-len-drops-many"].endswith(
        "left out: 3000 keeps 95%, 5000 keeps 99%, split those that are longer than the 8,192 that the model reads at "
        "a time"
    )


def test_nothing_lost_is_nothing_to_tell() -> None:
    said = told(data=data(1_000, lengths=LENGTHS), **length(1_500))
    assert not {rule for rule in said if rule.startswith("max-seq-len")}


def test_what_the_context_cuts_off_no_length_keeps() -> None:
    facts = data(900, dropped=100, lengths=(300, 9_000, 9_500, 10_000))
    said = told("sft", LARGE, facts)["max-seq-len-drops-many"]
    assert "a model with a longer context" in said
    assert "keeps" not in said


def test_samples_lost_without_their_lengths_known() -> None:
    assert "raise it" in told(data=data(900, dropped=100), **length(800))["max-seq-len-drops-many"]


def test_a_longest_sample_far_above_the_99th_percentile_costs_memory() -> None:
    outliers = data(1_000, lengths=(300, 900, 1_200, 30_000))
    said = told("sft", SMALL, outliers)["max-seq-len-outliers"]
    assert said.startswith(
        "memory is planned for samples of 30,000 tokens, and 99% of them have at most 1,200"
    )
    assert "max-seq-len-outliers" not in told("sft", SMALL, outliers, **length(2_400))
    assert "max-seq-len-outliers" not in told("sft", SMALL, data(1_000, lengths=(300, 900, 1_200, 2_400)))


def test_a_length_over_the_context_is_warned_of_where_the_context_is_known() -> None:
    said = told("sft", LARGE, **length(16_384))["max-seq-len-over-context"]
    assert said.startswith("16,384 is more than the model's context of 8,192 tokens: set 8192")
    assert "max-seq-len-over-context" not in told("sft", LARGE, **length(8_192))
    assert "max-seq-len-over-context" not in told("sft", named("some-8b"), **length(1_000_000))


@pytest.mark.parametrize(
    ("size", "rules"),
    [
        (2_048, set()),
        (512, set()),
        (4_096, {"block-size-unusual"}),
        (256, {"block-size-unusual"}),
        (16_384, {"block-size-unusual", "block-size-over-context"}),
    ],
)
def test_blocks_have_2048_tokens_or_512(size: int, rules: set[str]) -> None:
    assert {rule for rule in told("sft", LARGE, **blocks(size)) if rule.startswith("block-size")} == rules


def test_larger_blocks_need_memory_and_smaller_ones_tear_documents() -> None:
    assert "memory" in told(**blocks(4_096))["block-size-unusual"]
    assert "tears" in told(**blocks(1_024))["block-size-unusual"]


def test_512_is_for_short_documents() -> None:
    rule = "block-size-for-short-documents"
    assert (
        "half of the documents have at most 300 tokens"
        in told(data=data(lengths=LENGTHS), **blocks(2_048))[rule]
    )
    assert rule not in told(data=data(lengths=LENGTHS), **blocks(512))
    assert rule not in told(data=data(lengths=(513, 900, 1_200, 1_500)), **blocks(2_048))
    assert rule not in told(data=data(lengths=LENGTHS))


def test_unmasking_is_for_knowledge_in_the_user_s_messages() -> None:
    said = told(hyperparameters={"unmaskMessages": True})["unmask-for-knowledge"]
    assert "documents embedded in user messages" in said
    assert "unmask-for-knowledge" not in told()
