"""The errors of this package, as one tree. Its first fork: was anything sent?

::

    MyMSPError
    ├── NotSentError                 nothing was sent, and nothing changed at the gateway
    │   ├── InputError               an argument cannot be used; found before any request (a ValueError)
    │   │   ├── ConfigurationError   a setting: base URL, time zone, credentials
    │   │   ├── SourceError          the recipients' file or DataFrame cannot be read
    │   │   ├── TemplateError        the message text or one of its placeholders
    │   │   ├── ChangedTextError     recipients of this campaign would get a second, different text
    │   │   ├── RepeatError          recipients would get a text that another campaign sent them today
    │   │   └── LimitError           the campaign exceeds one of its limits, or starts too late
    │   ├── NotApprovedError         the campaign was rejected, or not approved in time
    │   ├── RefusedError             the gateway returned ``N`` and a code
    │   ├── UnreachableError         no connection: refused, timed out, TLS or proxy failure
    │   └── RateLimitedError         the gateway returned HTTP 429
    ├── InDoubtError                 the gateway may have acted on the request
    │   ├── NoResponseError          the connection broke or timed out after the request began to leave
    │   ├── UnexpectedStatusError    an HTTP status that proves nothing (5xx, redirects, most of 4xx)
    │   └── ProtocolError            a response that cannot be read: empty, HTML, truncated
    ├── CampaignError                a campaign did not run to its end
    │   ├── CampaignStoppedError     it stopped in order; the journal has the state of every row
    │   └── CampaignCancelledError   it was cancelled for good
    ├── JournalError                 the journal cannot be opened, or a change violated one of its rules
    └── ExportError                  a report cannot be written

The fork applies to every endpoint. After an :class:`InDoubtError` from an endpoint that only reads, nothing was sent,
but a destructive read may have lost its response. All errors can be pickled. None contains a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

#: The range of a refusal: every request of the ``account``, every request of the ``campaign``, this ``message``, one
#: ``number`` of this message, or ``unknown`` for an undocumented code.
Scope = Literal["account", "campaign", "message", "number", "unknown"]

_CONTEXT: Final[Any] = vars(BaseException)["__context__"]


def _rebuild(cls: type[MyMSPError], message: str, state: dict[str, Any]) -> MyMSPError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class MyMSPError(Exception):
    """Base of all errors raised by this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Prefect pickles exceptions; the default would fail for keyword-only constructors.
        return _rebuild, (type(self), str(self), dict(self.__dict__))

    @property
    def __context__(self) -> BaseException | None:
        # An error raised ``from None`` has no context: httpx's errors contain the request with its password, those of
        # SQLAlchemy numbers and texts. Tracebacks omit such a context, but Dask would pickle it.
        context: BaseException | None = None if self.__suppress_context__ else _CONTEXT.__get__(self)
        return context

    @__context__.setter
    def __context__(self, context: BaseException | None) -> None:
        _CONTEXT.__set__(self, context)


class NotSentError(MyMSPError):
    """Nothing was sent, and nothing changed at the gateway. It is safe to try again once the cause is removed."""


class InputError(NotSentError, ValueError):
    """An argument cannot be used. Nothing has left this machine."""


class ConfigurationError(InputError):
    """A setting is wrong: base URL, time zone, credentials."""


class SourceError(InputError):
    """The file or DataFrame cannot be read as a table of recipients."""


class TemplateError(InputError):
    """The message text, or one of its placeholders, cannot be used."""


class ChangedTextError(InputError):
    """Recipients of an earlier text of this campaign would get another one: the text or the file has changed.

    Attributes:
        messages: The number of such messages.
    """

    def __init__(self, message: str, *, messages: int) -> None:
        super().__init__(message)
        self.messages = messages


class RepeatError(InputError):
    """Recipients would get a text that another campaign has already sent them today.

    Attributes:
        messages: The number of such messages.
    """

    def __init__(self, message: str, *, messages: int) -> None:
        super().__init__(message)
        self.messages = messages


class LimitError(InputError):
    """A campaign exceeds one of its limits: recipients, segments, rejected rows, or lateness."""


class NotApprovedError(NotSentError):
    """The campaign was rejected by a person, or not approved in time. This run of it sent nothing."""


class RefusedError(NotSentError):
    """The gateway refused the request with ``N`` and a code. Nothing was sent.

    Attributes:
        code: The gateway's number, also if the vendor's document does not list it.
        meaning: What the code means at that endpoint, or that it is undocumented.
        endpoint: The endpoint as the vendor spells it, for example ``sendSms``.
        scope: The range of the refusal, see :data:`Scope`.
        remedy: Advice for a person, as an imperative sentence without its period.
    """

    def __init__(self, code: int, meaning: str, endpoint: str, *, scope: Scope = "unknown", remedy: str = "") -> None:
        super().__init__(f"{endpoint}: the gateway refused the request with code {code} ({meaning}).")
        self.code = code
        self.meaning = meaning
        self.endpoint = endpoint
        self.scope: Scope = scope
        self.remedy = remedy

    @property
    def account_wide(self) -> bool:
        """Whether every other request of this account would be refused too."""
        return self.scope == "account"


class UnreachableError(NotSentError):
    """The gateway was not reached: connection refused or timed out; TLS, proxy or name resolution failed."""


class RateLimitedError(NotSentError):
    """The gateway returned HTTP 429 and did not process the request.

    Attributes:
        retry_after_s: Seconds to wait, from the Retry-After header; None without one.
    """

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InDoubtError(MyMSPError):
    """The gateway may have acted on the request. Repeating a send could send the message twice.

    Attributes:
        reason: A short word for the journal: ``timeout``, ``connection-lost``, ``http-502``, ``empty`` …
        raw: The bytes that were received, only for the destructive ``getMsgUpdates``. Never printed.
    """

    def __init__(self, message: str, *, reason: str, raw: bytes | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.raw = raw


class NoResponseError(InDoubtError):
    """The connection broke or timed out after the request began to leave."""


class UnexpectedStatusError(InDoubtError):
    """An HTTP status that does not prove the outcome of the request.

    Attributes:
        status: The HTTP status code.
    """

    def __init__(self, message: str, *, status: int, raw: bytes | None = None) -> None:
        super().__init__(message, reason=f"http-{status}", raw=raw)
        self.status = status


class ProtocolError(InDoubtError):
    """The response does not follow the vendor's document: empty, HTML, truncated, or something else."""


class CampaignError(MyMSPError):
    """A campaign did not run to its end. The journal has the state of every row."""


class CampaignStoppedError(CampaignError):
    """A campaign stopped in order. What was sent is recorded; running it again sends the rest.

    Attributes:
        counts: Messages by state when it stopped.
    """

    def __init__(self, message: str, *, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts


class CampaignCancelledError(CampaignError):
    """The campaign was cancelled for good. What was sent before is recorded."""


class JournalError(MyMSPError):
    """The journal cannot be opened or written, or a change would have violated one of its rules."""


class ExportError(MyMSPError):
    """A report cannot be written. No part of it was written."""


def first_few(names: Sequence[str], limit: int = 12) -> str:
    """Quote names for an error message: at most ``limit`` of them, and the number of the others."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
