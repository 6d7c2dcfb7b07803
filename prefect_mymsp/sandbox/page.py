"""The page at ``/``: the latest accepted messages and the inbox at a glance."""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING, Final

from prefect_mymsp.sandbox.messages import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prefect_mymsp.sandbox.gateway import Gateway

_SHOWN: Final = 100
_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8885; }
td { white-space: pre-wrap; overflow-wrap: anywhere; }
th { font-weight: 600; }
.empty { opacity: .7; }
"""


def page(gateway: Gateway) -> str:
    """The page as HTML; every value is escaped, as texts are untrusted."""
    with gateway.lock:
        inbox = gateway.inbox()[-_SHOWN:][::-1]  # first, as replies due by now arrive by looking
        now = gateway.clock.timestamp()
        sent = []
        for message in islice(reversed(gateway.messages.values()), _SHOWN):
            words = "\n".join(f"{r.msisdn} {r.state(now)[1]}" for r in message.recipients[:5])
            more = len(message.recipients) - 5
            state = "cancelled" if message.cancelled else words + (f"\nand {more} more" if more > 0 else "")
            time = iso(message.accepted_at) or ""
            sent.append((str(message.message_id), time, message.originator, message.text, state))
        total = len(gateway.messages)
    received = [
        (m.message_id, m.received_at.isoformat(timespec="seconds") if m.received_at else "", m.sender or "", m.text)
        for m in inbox
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>myMSP sandbox</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>myMSP sandbox</h1><p>Simulated time {escape(iso(now) or '')}. Nothing here reaches a phone.</p>"
        f"<h2>Accepted: {total}</h2>"
        + _table(("Id", "Accepted", "Originator", "Text", "Recipients"), sent)
        + "<h2>Inbox</h2>"
        + _table(("Id", "Received", "Originator", "Text"), received)
        + "</body></html>\n"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return '<p class="empty">Nothing yet.</p>'
    return "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + f"</tr>{body}</table>"
