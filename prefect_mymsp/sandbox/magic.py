"""Magic numbers: each has a fixed outcome for messages sent to it.

All lie in 070-1740605 to 070-1740699, the range Sweden's regulator sets aside for fiction: no phone has them, so a
campaign pointed at the real gateway by mistake reaches no one. One table, from which the documentation is generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prefect_mymsp.sandbox.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = "46701740"

#: A text that imitates every frame of a response: tabs, newlines, and a whole delivery report and received message.
FORGED_TEXT: Final = (
    "Hello\tthere\r\n;;0\t100001\t1\t46701740605\tdelivered\t2026-01-01 00:00\n"
    ";;1\t999999999\t46701740605\t2026-01-01 00:00\tFORGED\tSMS\tforged"
)
#: A text a careless web page would run.
HTML_TEXT: Final = "<script>alert('sms')</script><b>bold</b> & \"quoted\""


@dataclass(frozen=True, slots=True)
class Magic:
    """The outcome of one number.

    Attributes:
        meaning: One line for the documentation.
        sent: Whether the message ever leaves the gateway.
        word: Final status word; None when the recipient's state never becomes final.
        delivery_delay_s: Seconds from sent to final, when not the gateway's usual.
        refused: Whether the gateway finds the number malformed (28).
        reply: Text the phone sends back a second after delivery.
        fault: What happens to the send itself.
        every_other: Whether the fault strikes only the first, third, … try of the same text, so that a retry passes.
    """

    meaning: str
    sent: bool = True
    word: str | None = "delivered"
    delivery_delay_s: float | None = None
    refused: bool = False
    reply: str | None = None
    fault: Fault | None = None
    every_other: bool = False


ORDINARY: Final = Magic("delivered within seconds")

#: Behaviour by MSISDN. Numbers of the range that are not listed are ordinary, as is every other well-formed number.
MAGIC_NUMBERS: Final[Mapping[str, Magic]] = {
    f"{_PREFIX}{suffix}": magic
    for suffix, magic in {
        650: Magic("sent, never delivered: stays `undelivered`", word=None),
        651: Magic("accepted, never sent", sent=False, word=None),
        652: Magic("ends as `expired`, a status word the document does not list", word="expired"),
        653: Magic("ends as `teleported`, an invented status word", word="teleported"),
        654: Magic("looks right but is refused: 28, for the whole send", refused=True),
        655: Magic("delivered ten minutes after it was sent", delivery_delay_s=600.0),
        656: Magic("delivered; replies `STOP`", reply="STOP"),
        657: Magic("delivered; replies a text with tabs, newlines and forged `;;` records", reply=FORGED_TEXT),
        658: Magic("delivered; replies HTML with a script", reply=HTML_TEXT),
        660: Magic("accepted, then the connection is closed without a response", fault=Fault("response_lost")),
        661: Magic(
            "connection closed, nothing processed; every second try of a text passes",
            fault=Fault("lost_before"),
            every_other=True,
        ),
        662: Magic("accepted, then HTTP 502", fault=Fault("error_after", status=502)),
        663: Magic(
            "HTTP 503, nothing processed; every second try of a text passes",
            fault=Fault("error_before", status=503),
            every_other=True,
        ),
        664: Magic(
            "HTTP 429 with `Retry-After: 1`, nothing processed; every second try of a text passes",
            fault=Fault("rate_limited", retry_after_s=1),
            every_other=True,
        ),
        665: Magic("accepted, response truncated: shorter than its Content-Length", fault=Fault("truncated")),
        666: Magic("accepted, response cut to `A` with a matching Content-Length", fault=Fault("cut_short")),
        667: Magic("accepted, then an HTML login page as the response", fault=Fault("html", processed=True)),
        668: Magic(
            "HTML login page, nothing processed; every second try of a text passes",
            fault=Fault("html", processed=False),
            every_other=True,
        ),
        669: Magic("accepted, then a response with an empty body", fault=Fault("empty")),
        670: Magic("accepted, response after 2 seconds", fault=Fault("slow", delay_s=2.0)),
        671: Magic("accepted, response after 30 seconds", fault=Fault("slow", delay_s=30.0)),
        672: Magic(
            "connection closed, and accepted 5 seconds later all the same; every second try of a text passes",
            fault=Fault("late", delay_s=5.0),
            every_other=True,
        ),
        681: Magic("connection closed, nothing processed, every time", fault=Fault("lost_before")),
        683: Magic("HTTP 503, nothing processed, every time", fault=Fault("error_before", status=503)),
        684: Magic(
            "HTTP 429 with `Retry-After: 1`, nothing processed, every time",
            fault=Fault("rate_limited", retry_after_s=1),
        ),
        690: Magic("refused: 7, authorization", fault=Fault("refuse", code=7)),
        691: Magic("refused: 11, quota of messages", fault=Fault("refuse", code=11)),
        692: Magic("refused: 12, credits", fault=Fault("refuse", code=12)),
        693: Magic("refused: 13, unknown error", fault=Fault("refuse", code=13)),
        694: Magic("refused: 33, originator not registered", fault=Fault("refuse", code=33)),
        699: Magic("refused: 999, a code the document does not have", fault=Fault("refuse", code=999)),
    }.items()
}

FIRST, LAST = 605, 699


def markdown_table() -> str:
    """The table of numbers as it stands in ``docs/sandbox.md``; a test holds the two together."""
    rows = ["| Number | What happens |", "| --- | --- |"]
    suffix = FIRST
    while suffix <= LAST:
        magic = MAGIC_NUMBERS.get(f"{_PREFIX}{suffix}")
        end = suffix
        if magic is None:
            while end < LAST and f"{_PREFIX}{end + 1}" not in MAGIC_NUMBERS:
                end += 1
        name = f"`{_PREFIX}{suffix}`" if end == suffix else f"`{_PREFIX}{suffix}` to `{_PREFIX}{end}`"
        rows.append(f"| {name} | {(magic or ORDINARY).meaning} |")
        suffix = end + 1
    return "\n".join(rows) + "\n"
