"""The gateway's error codes: meaning, scope and remedy. Every decision about a code is looked up here.

Source: vendor's document, sections 4.1.3, 4.2.3, 4.3.1.3, 4.3.3, 4.3.4.3, 4.3.5.3, 4.4.3 and 4.5.3. The table of
``docs/errors.md`` is compared with :data:`CODES` by a test.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_mymsp.errors import RefusedError, Scope

#: The endpoint that sends a message (4.1).
SEND = "sendSms"
#: The endpoint that returns the status of each recipient (4.2).
RESULT = "getSmsResult"
#: The endpoint that returns the time of a scheduled message (4.3.1).
SCHEDULED_TIME = "sendlater/get"
#: The endpoint that lists scheduled messages (4.3.2).
SCHEDULED = "sendlater/getall"
#: The endpoint that changes the time of a scheduled message (4.3.4).
RESCHEDULE = "sendlater/update"
#: The endpoint that cancels a scheduled message (4.3.5).
CANCEL = "sendlater/cancel"
#: The endpoint that returns received messages (4.4).
INBOX = "getMsgReceived"
#: The endpoint that returns and removes updates (4.5).
UPDATES = "getMsgUpdates"
#: All endpoints.
ENDPOINTS = (SEND, RESULT, SCHEDULED_TIME, SCHEDULED, RESCHEDULE, CANCEL, INBOX, UPDATES)

#: At least one recipient is not a valid number. The gateway does not name it.
BAD_RECIPIENT = 28
#: There is no message with this id.
NO_SUCH_MESSAGE = 32
#: The message has been archived: its result will not change any more.
ARCHIVED = 323
#: The message has left the gateway and can be neither rescheduled nor cancelled.
SENT_ALREADY = 351


@dataclass(frozen=True, slots=True)
class Code:
    """A code of the vendor's document.

    Attributes:
        number: The code.
        meaning: Its meaning, as the end of a sentence.
        remedy: Advice for a person, as an imperative sentence without its period.
        scope: The range of the refusal, see :data:`~prefect_mymsp.errors.Scope`.
        endpoints: The endpoints that document the code with this meaning.
    """

    number: int
    meaning: str
    remedy: str
    scope: Scope
    endpoints: tuple[str, ...]


_BY_ID = (RESULT, SCHEDULED_TIME, RESCHEDULE, CANCEL)
_REPORT = "This package never sends such a request. Report it as a bug"

#: Every documented code, in the document's order.
CODES: tuple[Code, ...] = (
    Code(
        7,
        "the account may not do this: user, password or permission is wrong",
        "Check user and password, and whether the account may use this endpoint. The gateway's support activates "
        "`getMsgUpdates` for an account",
        "account",
        ENDPOINTS,
    ),
    Code(
        11,
        "the account has sent as many messages as it may",
        "Wait until the account may send again, or ask the gateway to raise its limit",
        "account",
        (SEND,),
    ),
    Code(12, "the account's credits do not cover the message", "Buy credits for the account", "account", (SEND,)),
    Code(
        13,
        "an error that the gateway does not explain",
        "Ask the gateway's support, with the time and the endpoint",
        "message",
        ENDPOINTS,
    ),
    Code(22, "the user is empty", _REPORT, "account", ENDPOINTS),
    Code(23, "the user is missing", _REPORT, "account", ENDPOINTS),
    Code(24, "the password is empty", _REPORT, "account", ENDPOINTS),
    Code(25, "the password is missing", _REPORT, "account", ENDPOINTS),
    Code(
        BAD_RECIPIENT,
        "at least one recipient is not a number that the gateway can use; it does not name it",
        "Correct the number in the source. A campaign splits the request until only that number is refused",
        "number",
        (SEND,),
    ),
    Code(29, "the recipients are missing", _REPORT, "message", (SEND,)),
    Code(30, "the text is empty", _REPORT, "message", (SEND,)),
    Code(31, "the text is missing", _REPORT, "message", (SEND,)),
    Code(
        NO_SUCH_MESSAGE,
        "there is no message with this id",
        "Check the id and the account. A campaign treats the messages of such an id as in doubt",
        "message",
        _BY_ID,
    ),
    Code(
        33,
        "the sender is not registered with the gateway",
        "Register the sender with the gateway, or choose a registered one",
        "account",
        (SEND,),
    ),
    Code(34, "the delivery time has the wrong format", _REPORT, "campaign", (SEND, RESCHEDULE)),
    Code(
        35,
        "the delivery time is not in the future",
        "Choose a later time; a campaign needs a new name for that. Check the clock of this machine",
        "campaign",
        (SEND, RESCHEDULE),
    ),
    Code(36, "the flash setting is invalid", "Send without `flash`, and report it as a bug", "campaign", (SEND,)),
    Code(
        37,
        "the destination port is invalid",
        "Choose another `destination_port`, or none",
        "campaign",
        (SEND,),
    ),
    Code(
        38,
        "the express setting is invalid",
        "This package does not use that setting. Ask the gateway's support",
        "campaign",
        (SEND,),
    ),
    Code(
        282,
        "the recipients are empty",
        "Check that the recipient group has members",
        "message",
        (SEND,),
    ),
    Code(
        303,
        "the message cannot be passed on to the operator (invalid UCP)",
        "Try the text without unusual characters, and ask the gateway's support",
        "message",
        (SEND,),
    ),
    Code(ARCHIVED, "the message has been archived", "Use the result that was last recorded", "message", (RESULT,)),
    Code(
        SENT_ALREADY,
        "the message has been sent; its time cannot be changed",
        "None: the message is out",
        "message",
        (RESCHEDULE,),
    ),
    Code(
        SENT_ALREADY,
        "the message has been sent; it cannot be cancelled",
        "None: the message is out",
        "message",
        (CANCEL,),
    ),
    Code(391, "the message id is not valid", "Use an id that the gateway returned", "message", _BY_ID),
    Code(391, "the last message id is not valid", "Use the highest id received, or 0", "message", (INBOX,)),
    Code(392, "the message id is empty", _REPORT, "message", _BY_ID),
    Code(392, "the last message id is missing", _REPORT, "message", (INBOX,)),
)

_TABLE = {(endpoint, code.number): code for code in CODES for endpoint in code.endpoints}
#: Codes that refuse every request of the account, wherever they are documented.
_ACCOUNT_WIDE = {code.number: code for code in CODES if code.scope == "account"}


def find_code(endpoint: str, number: int) -> Code | None:
    """The documented code of an endpoint; None if the document does not list it there."""
    return _TABLE.get((endpoint, number))


def code_meaning(endpoint: str, number: int) -> str:
    """The meaning of a code at an endpoint, as the end of a sentence."""
    code = find_code(endpoint, number)
    return "not in the vendor's document for this endpoint" if code is None else code.meaning


def refusal(endpoint: str, number: int) -> RefusedError:
    """The error for a response of ``N`` and a code.

    An undocumented code keeps its number. Its scope is ``unknown``, unless other endpoints document it for the account.
    """
    code = find_code(endpoint, number) or _ACCOUNT_WIDE.get(number)
    return RefusedError(
        number,
        code_meaning(endpoint, number),
        endpoint,
        scope="unknown" if code is None else code.scope,
        remedy="Ask the gateway's support what the code means" if code is None else code.remedy,
    )
