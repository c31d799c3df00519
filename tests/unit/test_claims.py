"""What a token says of itself, read without believing it."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.endpoint.claims import MAX_TOKEN_LENGTH, Claims

PAYLOAD = {
    "aud": ["finetune.dev"],
    "exp": 1_800_000_000,
    "kubernetes.io": {"namespace": "team", "pod": {"name": "demo-1-0-abc", "uid": "1"}},
}


def token(payload: Any) -> str:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.c2lnbmVk"


def test_the_claims_of_a_projected_token() -> None:
    assert Claims.of(token(PAYLOAD)) == Claims(("finetune.dev",), "team", "demo-1-0-abc", 1_800_000_000)


NO_TOKEN = "no JSON Web Token"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", NO_TOKEN),
        ("nonsense", NO_TOKEN),
        ("a.b", NO_TOKEN),
        ("a.b.c.d", NO_TOKEN),
        ("a.e30.c\n", NO_TOKEN),
        ("a.e30 .c", NO_TOKEN),
        ("ä.e30.c", NO_TOKEN),
        ("\udcff.e30.c", NO_TOKEN),
        (token({"aud": "x" * MAX_TOKEN_LENGTH}), NO_TOKEN),
        ("a.b.c", "base64"),
        (token(b"{"), "EOF"),
        (token(b"[" * 2000), "recursion limit"),
        (token(b"\xff"), "expected value"),
    ],
)
def test_what_is_no_token(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Claims.of(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*PAYLOAD, "namespace", "pod"]), inner),
    max_leaves=20,
)


@given(JSON)
def test_whatever_it_claims_is_read_or_refused(payload: Any) -> None:
    try:
        claims = Claims.of(token(payload))
    except ValueError:
        return
    assert claims.pod == "" or isinstance(payload["kubernetes.io"]["pod"]["name"], str)
