"""The table of error codes."""

from __future__ import annotations

import pytest

from prefect_mymsp.errors import Scope
from prefect_mymsp.protocol import CODES, ENDPOINTS, SEND, code_meaning, find_code, refusal


def test_a_code_has_one_meaning_at_an_endpoint() -> None:
    keys = [(endpoint, code.number) for code in CODES for endpoint in code.endpoints]
    assert len(keys) == len(set(keys))
    for endpoint, number in keys:
        code = find_code(endpoint, number)
        assert code is not None
        assert code_meaning(endpoint, number) == code.meaning


def test_a_code_has_one_scope() -> None:
    scopes = {(code.number, code.scope) for code in CODES}
    assert len(scopes) == len({number for number, _ in scopes})


def test_every_endpoint_documents_the_codes_of_credentials() -> None:
    for endpoint in ENDPOINTS:
        assert {7, 13, 22, 23, 24, 25} <= {code.number for code in CODES if endpoint in code.endpoints}


@pytest.mark.parametrize(
    ("scope", "numbers"),
    [
        ("account", {7, 11, 12, 22, 23, 24, 25, 33}),
        ("campaign", {34, 35, 36, 37, 38}),
        ("number", {28}),
        ("message", {13, 29, 30, 31, 32, 282, 303, 323, 351, 391, 392}),
    ],
)
def test_scopes(scope: Scope, numbers: set[int]) -> None:
    assert {code.number for code in CODES if code.scope == scope} == numbers


@pytest.mark.parametrize("number", [7, 11, 12, 22, 23, 24, 25, 33])
def test_a_code_of_the_account_is_one_at_every_endpoint(number: int) -> None:
    assert all(refusal(endpoint, number).account_wide for endpoint in ENDPOINTS)


@pytest.mark.parametrize("number", [0, 13, 28, 282, 29, 30, 31, 32, 34, 35, 36, 37, 38, 301, 303, 323, 351, 391, 392])
def test_other_codes_do_not_concern_the_account(number: int) -> None:
    assert not any(refusal(endpoint, number).account_wide for endpoint in ENDPOINTS)


@pytest.mark.parametrize("number", [0, 32, 301, 323, 999_999_999])
def test_an_undocumented_code_has_an_unknown_scope(number: int) -> None:
    error = refusal(SEND, number)
    assert (error.code, error.scope) == (number, "unknown")
    assert "not in the vendor's document" in str(error)
    assert error.remedy


def test_texts_fit_into_sentences() -> None:
    for code in CODES:
        assert not code.meaning.endswith(".")
        assert code.meaning[0].islower()
        assert not code.remedy.endswith(".")
        assert code.remedy[0].isupper()
        assert "|" not in code.meaning + code.remedy
