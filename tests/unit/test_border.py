"""Texts and integers at the border: what passes can be stored, and nothing else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.border import MAX_INTEGER, MIN_INTEGER, check_integer, check_json, storable
from tidemill.errors import InputError

BITS = st.integers(MIN_INTEGER, MAX_INTEGER)
GOOD_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
TEXT = st.one_of(st.text(), st.text(st.characters(categories=("Cs",))), st.just("a\0b"))
GOOD = st.recursive(
    BITS | GOOD_TEXT | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(GOOD_TEXT, inner),
)


@given(GOOD)
def test_what_every_store_accepts_passes(value: object) -> None:
    check_json(json.dumps(value).encode())


@given(TEXT, st.none() | st.integers(0, 9))
def test_a_cleaned_text_can_be_stored_and_is_no_longer(text: str, limit: int | None) -> None:
    cleaned = storable(text, limit)
    assert "\0" not in cleaned.encode().decode()
    assert len(cleaned) == len(text[:limit])


@pytest.mark.parametrize(
    "body",
    [
        r'"\u0000"', r'{"a": ["\ud800"]}', r'{"\udfff": 1}', r'{"\u0000": 1}', str(2**63),
        str(-(2**63) - 1), f"[{10**30}]", "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65,
    ],
)  # fmt: skip
def test_what_a_store_refuses_is_refused(body: str) -> None:
    with pytest.raises(InputError):
        check_json(body.encode())


@pytest.mark.parametrize("text", ["", "+1", "1.0", "٣", "²", " 1", "1_0", "9" * 5000, str(2**63)])
def test_what_is_not_an_integer_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        check_integer(text, "cursor")


@given(BITS)
def test_every_integer_of_64_bits_is_read(value: int) -> None:
    assert check_integer(str(value), "cursor") == value


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]


@given(
    st.text(st.characters(codec=None), max_size=8) | st.integers(),
    st.sampled_from(ENCODINGS),
    st.booleans(),
    st.integers(0, 3),
)
def test_every_spelling_that_json_reads_is_checked(
    value: str | int, encoding: str, ascii_only: bool, depth: int
) -> None:
    document: object = value
    for _ in range(depth):
        document = {"name": [document]}
    body = json.dumps(document, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    try:
        found = json.loads(body)
    except ValueError:
        check_json(body)  # left to the parser
        return
    leaf = found
    for _ in range(depth):
        leaf = leaf["name"][0]
    storable_text = isinstance(leaf, str) and storable(leaf) == leaf
    if storable_text or (isinstance(leaf, int) and -(2**63) <= leaf < 2**63):
        check_json(body)
    else:
        with pytest.raises(InputError):
            check_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b'["a\xed\xa0\x80"]',
        '["\\ud800"]'.encode("utf-16"),
        '["\\u0000"]'.encode("utf-16-be"),
        '["a\\u0000"]'.encode("utf-32"),
        "[99999999999999999999999]".encode("utf-16"),
    ],
)
def test_raw_surrogates_and_wide_encodings_are_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        check_json(body)
