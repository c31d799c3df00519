"""Pages that are generated."""

import generate_docs
from finetune_api import guide


def test_the_page_of_hyperparameters_is_what_the_rule_book_says() -> None:
    target = generate_docs.TARGET
    assert target.read_text() == generate_docs.rendered(), f"{target} is stale: run `make docs`"


def test_every_rule_is_on_the_page_by_its_id_with_its_statement() -> None:
    page = generate_docs.rendered()
    for rule in guide.RULES:
        assert page.count(f"`{rule.id}`") == 2, rule.id
        assert rule.statement in page, rule.id
