"""The identity under which the journal keeps an account's campaigns."""

from __future__ import annotations

import hashlib


def account_fingerprint(base_url: str, user: str) -> str:
    """A stable, anonymous id for a gateway account.

    The same gateway and user always give the same id. The journal and events carry the id, so neither shows the user.

    Args:
        base_url: The gateway's base URL, as :func:`prefect_mymsp.client.check_base_url` returns it.
        user: The account's user.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.blake2b(f"{base_url}\n{user}".encode(), digest_size=16).hexdigest()
