"""Pages that are generated."""

from types import ModuleType

import pytest

import generate_api_reference
import generate_docs
import generate_report_endpoint
from finetune_api import guide


@pytest.mark.parametrize("page", [generate_docs, generate_api_reference, generate_report_endpoint])
def test_the_page_is_what_the_api_says(page: ModuleType) -> None:
    assert page.TARGET.read_text() == page.rendered(), f"{page.TARGET} is stale: run `make docs`"


def test_the_openapi_document_is_what_the_api_says() -> None:
    document = generate_report_endpoint.DOCUMENT
    assert document.read_text() == generate_report_endpoint.rendered_document(), (
        f"{document} is stale: run `make docs`"
    )


def test_every_rule_is_on_the_page_by_its_id_with_its_statement() -> None:
    page = generate_docs.rendered()
    for rule in guide.RULES:
        assert page.count(f"`{rule.id}`") == 2, rule.id
        assert rule.statement in page, rule.id
