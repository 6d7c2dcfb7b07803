"""Every error of this package, one tree, forked first on the only question that costs money.

::

    MyMSPError
    ├── NotSentError                 nothing was sent and nothing changed at the gateway
    │   ├── InputError               what you gave cannot be sent; found before any request (a ValueError)
    │   │   ├── ConfigurationError   a setting: base URL, time zone, credentials
    │   │   ├── SourceError          the recipients' file or DataFrame cannot be read
    │   │   ├── TemplateError        the message text or one of its placeholders
    │   │   ├── ChangedTextError     people of this campaign would get a second, different text
    │   │   ├── RepeatError          people would get a text that another campaign sent them today
    │   │   └── LimitError           a campaign exceeds a limit that was set for it, or begins too late
    │   ├── NotApprovedError         a person refused the campaign, or nobody answered in time
    │   ├── RefusedError            the gateway answered ``N`` and a code
    │   ├── UnreachableError         no connection was made: refused, timed out, TLS or proxy failure
    │   └── RateLimitedError         the gateway answered HTTP 429
    ├── InDoubtError                 the gateway may have acted on the request
    │   ├── NoAnswerError            the connection broke or timed out after the request began to leave
    │   ├── UnexpectedStatusError    an HTTP status that says nothing certain (5xx, redirects, most of 4xx)
    │   └── ProtocolError            an answer that cannot be read: empty, HTML, cut short
    ├── CampaignError                a campaign did not run to its end
    │   ├── CampaignStoppedError     it stopped on purpose; the journal knows every row's state
    │   └── CampaignCancelledError   a person cancelled it for good
    ├── JournalError                 the journal cannot be opened, or a change broke one of its rules
    └── ExportError                  a report cannot be written where it was to go

The fork holds for every endpoint: after an :class:`InDoubtError` from a read nothing was sent either, but a
destructive read may have taken its answer with it. All errors pickle, and none carries a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_CONTEXT: Final[Any] = vars(BaseException)["__context__"]


def _rebuild(cls: type[MyMSPError], message: str, state: dict[str, Any]) -> MyMSPError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class MyMSPError(Exception):
    """Base of all errors raised by this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Prefect moves exceptions between processes; keyword-only constructors would not survive that.
        return _rebuild, (type(self), str(self), dict(self.__dict__))

    @property
    def __context__(self) -> BaseException | None:
        # Raised ``from None``, it hands out no context: httpx's errors hold the request with its password, SQLAlchemy's
        # the numbers and texts. Tracebacks leave such a context out, but Dask pickles it along.
        context: BaseException | None = None if self.__suppress_context__ else _CONTEXT.__get__(self)
        return context

    @__context__.setter
    def __context__(self, context: BaseException | None) -> None:
        _CONTEXT.__set__(self, context)


class NotSentError(MyMSPError):
    """Nothing was sent and nothing changed at the gateway: safe to try again once the cause is mended."""


class InputError(NotSentError, ValueError):
    """What was given cannot be sent; nothing has left this machine."""


class ConfigurationError(InputError):
    """A setting is wrong: base URL, time zone, credentials."""


class SourceError(InputError):
    """The recipients' file or DataFrame cannot be read as a table of recipients."""


class TemplateError(InputError):
    """The message text, or one of its placeholders, cannot be used."""


class ChangedTextError(InputError):
    """People who have got a text of this campaign would get another one, because the text or the file has changed.

    Attributes:
        messages: How many messages that concerns.
    """

    def __init__(self, message: str, *, messages: int) -> None:
        super().__init__(message)
        self.messages = messages


class RepeatError(InputError):
    """People would get a text today that another campaign has sent them today.

    Attributes:
        messages: How many messages that concerns.
    """

    def __init__(self, message: str, *, messages: int) -> None:
        super().__init__(message)
        self.messages = messages


class LimitError(InputError):
    """A campaign exceeds a limit that was set for it: recipients, segments, rows that cannot be sent, or lateness."""


class NotApprovedError(NotSentError):
    """A person refused the campaign, or nobody approved it in time; this start of it sent nothing."""


class RefusedError(NotSentError):
    """The gateway refused the request with ``N`` and a code; nothing was sent.

    Attributes:
        code: The gateway's error number, kept as it came even when it is not in the vendor's document.
        meaning: What the code means at that endpoint, or that it is unknown.
        endpoint: The endpoint's name as the vendor spells it, for instance ``sendSms``.
    """

    def __init__(self, code: int, meaning: str, endpoint: str) -> None:
        super().__init__(f"{endpoint}: the gateway refused with code {code} ({meaning}).")
        self.code = code
        self.meaning = meaning
        self.endpoint = endpoint

    @property
    def account_wide(self) -> bool:
        """Whether every other request of this account would be refused for the same reason."""
        return self.code in ACCOUNT_WIDE_CODES


#: Codes that concern the account, not one message: authorization, quota, credits, credentials, sender.
#: Vendor's document, sections 4.1.3 to 4.5.3.
ACCOUNT_WIDE_CODES = frozenset({7, 11, 12, 22, 23, 24, 25, 33})


class UnreachableError(NotSentError):
    """The gateway was never reached: connection refused or timed out, TLS, proxy or name resolution failed."""


class RateLimitedError(NotSentError):
    """The gateway answered HTTP 429 and did not process the request.

    Attributes:
        retry_after_s: Seconds the gateway asked to wait, or None when it did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InDoubtError(MyMSPError):
    """The gateway may have acted on the request. Never repeat a send after this without looking first.

    Attributes:
        reason: One short word for the journal: ``timeout``, ``connection-lost``, ``http-502``, ``empty`` …
        raw: What had arrived of the answer, kept only for the destructive ``getMsgUpdates``; never printed.
    """

    def __init__(self, message: str, *, reason: str, raw: bytes | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.raw = raw


class NoAnswerError(InDoubtError):
    """The connection broke or timed out after the request began to leave."""


class UnexpectedStatusError(InDoubtError):
    """An HTTP status that says nothing certain about the request.

    Attributes:
        status: The HTTP status code.
    """

    def __init__(self, message: str, *, status: int, raw: bytes | None = None) -> None:
        super().__init__(message, reason=f"http-{status}", raw=raw)
        self.status = status


class ProtocolError(InDoubtError):
    """The answer does not follow the vendor's document: empty, HTML, cut short, or something else entirely."""


class CampaignError(MyMSPError):
    """A campaign did not run to its end; the journal knows the state of every row."""


class CampaignStoppedError(CampaignError):
    """A campaign stopped on purpose, in order: what was sent is recorded, the rest can be continued.

    Attributes:
        counts: Rows by journal state at the moment it stopped.
    """

    def __init__(self, message: str, *, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts


class CampaignCancelledError(CampaignError):
    """A person has cancelled the campaign; what was sent before that is recorded."""


class JournalError(MyMSPError):
    """The journal cannot be opened or written, or a change would have broken one of its rules."""


class ExportError(MyMSPError):
    """A report cannot be written where it was to go; nothing of it was."""


def first_few(names: Sequence[str], limit: int = 12) -> str:
    """Names in quotes for an error message, at most ``limit`` of them and the count of the rest."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
