"""The gateway's HTTPS protocol: error codes, request bodies, response bodies. It does no I/O.

Requests are strict, the framing of responses is read tolerantly, and whether an SMS was sent is never guessed. Section
numbers are those of the vendor's document, "myMSP API v2 Appendix HTTPS", revision M.

Where the document's text and its examples disagree:

* 4.3.1.2 has a time of 15 characters, 4.3.2.2 one of 16: the tenth of a second may be missing.
* 4.5.2 specifies ``YYMMDDhhmmssZZZZ`` for delivery reports and shows ``YYYY-MM-DD hh:mm``: both are read.
* The message number is called ``msgId`` in 4.2 and ``msgno`` in 4.3.
"""

from prefect_mymsp.protocol.codes import (
    ARCHIVED,
    BAD_RECIPIENT,
    CANCEL,
    CODES,
    ENDPOINTS,
    INBOX,
    NO_SUCH_MESSAGE,
    RESCHEDULE,
    RESULT,
    SCHEDULED,
    SCHEDULED_TIME,
    SEND,
    SENT_ALREADY,
    UPDATES,
    Code,
    code_meaning,
    find_code,
    refusal,
)
from prefect_mymsp.protocol.requests import (
    MAX_CHARACTERS,
    Login,
    build_cancel,
    build_inbox,
    build_reschedule,
    build_result,
    build_scheduled,
    build_scheduled_time,
    build_send,
    build_updates,
    check_port,
    format_delivery_time,
    format_recipients,
    format_text,
)
from prefect_mymsp.protocol.responses import (
    Response,
    decode,
    parse_acknowledgement,
    parse_inbox,
    parse_inbox_lenient,
    parse_raw_updates,
    parse_result,
    parse_scheduled,
    parse_scheduled_time,
    parse_send,
    parse_updates,
)

__all__ = [
    "ARCHIVED",
    "BAD_RECIPIENT",
    "CANCEL",
    "CODES",
    "ENDPOINTS",
    "INBOX",
    "MAX_CHARACTERS",
    "NO_SUCH_MESSAGE",
    "RESCHEDULE",
    "RESULT",
    "SCHEDULED",
    "SCHEDULED_TIME",
    "SEND",
    "SENT_ALREADY",
    "UPDATES",
    "Code",
    "Login",
    "Response",
    "build_cancel",
    "build_inbox",
    "build_reschedule",
    "build_result",
    "build_scheduled",
    "build_scheduled_time",
    "build_send",
    "build_updates",
    "check_port",
    "code_meaning",
    "decode",
    "find_code",
    "format_delivery_time",
    "format_recipients",
    "format_text",
    "parse_acknowledgement",
    "parse_inbox",
    "parse_inbox_lenient",
    "parse_raw_updates",
    "parse_result",
    "parse_scheduled",
    "parse_scheduled_time",
    "parse_send",
    "parse_updates",
    "refusal",
]
