"""An account's id in the journal."""

from __future__ import annotations

from prefect_mymsp.account import account_fingerprint


def test_a_fingerprint_is_stable_and_anonymous() -> None:
    fingerprint = account_fingerprint("https://mymsp.21st.se/external", "demo")
    assert fingerprint == "1293a4c482dc2090b0a7b85a02f3cfff"
    assert "demo" not in fingerprint


def test_other_users_and_other_gateways_are_other_accounts() -> None:
    accounts = [("https://a/x", "demo"), ("https://a/x", "demo2"), ("https://b/x", "demo")]
    assert len({account_fingerprint(*account) for account in accounts}) == 3
