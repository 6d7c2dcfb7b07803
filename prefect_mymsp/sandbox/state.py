"""The gateway itself: accounts, messages, inbox and the eight endpoints, without any I/O.

A request comes in as bytes and leaves as a :class:`Reply` that says what to put on the wire, or to put nothing there.
Nothing runs in the background: what time brings (sending, delivery, replies, late requests) is computed from the clock
whenever somebody looks.

Source: vendor's document, revision M; where it is silent, the choice is listed in ``docs/sandbox.md``.
"""

from __future__ import annotations

import codecs
import heapq
import re
import threading
from collections import Counter, deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes
from zlib import crc32

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.models import ReceivedMessage
from prefect_mymsp.sandbox.accounts import MSISDN, Account, Settings
from prefect_mymsp.sandbox.clock import END, Clock
from prefect_mymsp.sandbox.dialect import minutes, washed
from prefect_mymsp.sandbox.faults import ENDPOINTS, Fault, FaultPlan
from prefect_mymsp.sandbox.magic import MAGIC_NUMBERS, ORDINARY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_TEXT_CHARACTERS: Final = 765
REQUESTS_KEPT: Final = 10_000
_FIRST_ID: Final = 100_001
_REPLY_DELAY_S: Final = 1.0

# Section 4.1.1: YYYYMMDDhhmm and whole hours from UTC with their sign.
_DELIVERY_TIME = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})([+-])(\d{1,2})", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

# Escapes and domain names, and an encoding in which halves of surrogate pairs pass.
_NOT_CHARSETS: Final = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})

_LOGIN_PAGE: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form method='post' action='/app/login'>"
    b"<input name='user'><input name='pwd' type='password'><input type='submit' value='Log in'></form></body></html>\n"
)
_TEXT_PLAIN: Final = (b"content-type", b"text/plain; charset=utf-8")


class Reply(NamedTuple):
    """What to put on the wire.

    Attributes:
        status: HTTP status.
        headers: Response headers, without Content-Length.
        body: What is sent of the body.
        announced: Content-Length; larger than the body for a truncated answer.
        delay_s: Real seconds to wait before answering.
        dropped: Close the connection without a byte instead of all this.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    announced: int
    delay_s: float = 0.0
    dropped: bool = False


class Request(NamedTuple):
    """One request as ``GET /_sandbox/requests`` shows it, without its parameters.

    Attributes:
        at: Simulated time, seconds since 1970-01-01 UTC.
        endpoint: As in :data:`ENDPOINTS`.
        method: HTTP method.
        status: HTTP status; None when the connection was closed without an answer.
        outcome: ``A`` or ``N28`` as the gateway decided it, even if the answer never arrived; None when it did nothing.
        fault: Kind of the fault that struck.
        credentials_in_url: Whether ``user`` or ``pwd`` stood in the query.
    """

    at: float
    endpoint: str
    method: str
    status: int | None
    outcome: str | None
    fault: str | None
    credentials_in_url: bool


@dataclass(slots=True)
class Recipient:
    """One SMS of a message.

    Attributes:
        recipient_id: The gateway's own number for it.
        msisdn: Where it goes.
        sent_at: When it leaves, in simulated seconds since 1970-01-01 UTC; None is never.
        final_at: When ``word`` becomes its state; None is never.
        word: Its last status word.
    """

    recipient_id: int
    msisdn: str
    sent_at: float | None = None
    final_at: float | None = None
    word: str = "delivered"

    def state(self, now: float) -> tuple[float | None, str, float | None]:
        """When sent, the status word, when delivered, as of ``now``."""
        sent_at = self.sent_at if self.sent_at is not None and self.sent_at <= now else None
        if self.final_at is None or self.final_at > now:
            return sent_at, "undelivered", None
        return sent_at, self.word, self.final_at if self.word == "delivered" else None


@dataclass(slots=True)
class Message:
    """A message the gateway accepted.

    Attributes:
        message_id: Its number.
        user: The account's user.
        originator: Sender text.
        text: What was to be sent, decoded.
        recipients: One entry an SMS; a number named twice is there twice.
        accepted_at: Simulated seconds since 1970-01-01 UTC.
        scheduled_at: Its delivery time likewise; None when sent at once.
        cancelled: Whether it was called back in time.
        archived: Whether getSmsResult answers 323.
        flash: Sent as a flash SMS.
        destination_port: Port on the phone; 0 is none.
        generation: Counts changes of the delivery time; events of an older generation no longer happen.
    """

    message_id: int
    user: str
    originator: str
    text: str
    recipients: list[Recipient]
    accepted_at: float
    scheduled_at: float | None = None
    cancelled: bool = False
    archived: bool = False
    flash: bool = False
    destination_port: int = 0
    generation: int = 0

    def waiting(self, now: float) -> bool:
        """Whether it is scheduled and can still be changed."""
        return self.scheduled_at is not None and self.scheduled_at > now and not self.cancelled


class _Refusal(Exception):  # noqa: N818  an answer, not an error
    def __init__(self, code: int) -> None:
        self.code = code


class _Interruption(Exception):  # noqa: N818  a magic number's fault before processing
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


@dataclass(slots=True)
class _Exchange:
    params: Mapping[str, bytes]
    now: float
    fault: Fault | None = None
    repeat_magic: bool = True  # False when a late request is processed: its magic number has struck already


class _Books:
    """What one account owns."""

    __slots__ = ("collected", "inbox", "reports", "sms")

    def __init__(self) -> None:
        self.inbox: list[ReceivedMessage] = []
        self.collected = 0  # entries of the inbox that an update has returned
        self.reports: list[tuple[float, int, int, Message, Recipient]] = []  # heap: when, id, generation
        self.sms = 0


class _Reply(NamedTuple):
    message: Message
    generation: int
    originator: str
    text: str


class _Late(NamedTuple):
    endpoint: str
    params: Mapping[str, bytes]


class Gateway:
    """A myMSP gateway in memory.

    Every public method takes the lock, so a test may look at it while the server runs. For several steps that must not
    be interrupted, hold :attr:`lock` (it is reentrant).

    Args:
        accounts: Who may log in; one account ``demo`` with password ``demo-password`` when not given.
        settings: Delivery times, dialect and the like.
        faults: What goes wrong; nothing when not given.
        clock: Simulated time; real time when not given.

    Attributes:
        lock: Guards everything below.
        accounts: Accounts by user.
        settings: Replace it as a whole: ``gateway.settings = dataclasses.replace(gateway.settings, latency_ms=5)``.
        faults: The plan of faults.
        clock: Simulated time.
        messages: Accepted messages by id, in order of acceptance.
        requests: The latest requests, at most :data:`REQUESTS_KEPT`.
        request_count: All requests since the last reset.
        credentials_in_url_count: How many of them had credentials in the URL.
    """

    def __init__(
        self,
        *,
        accounts: Iterable[Account] | None = None,
        settings: Settings | None = None,
        faults: FaultPlan | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.lock = threading.RLock()
        first = list(accounts) if accounts is not None else [Account()]
        self._initial_accounts = [replace(account) for account in first]
        self._initial_settings = settings or Settings()
        self.faults = faults or FaultPlan()
        self._initial_faults = (self.faults.seed, list(self.faults.random), self.faults.remaining())
        self.clock = clock or Clock()
        self._initial_speed, self._initial_frozen = self.clock.speed, self.clock.frozen
        self._handlers: dict[str, Callable[[_Exchange], str]] = {
            "sendSms": self._send_sms,
            "getSmsResult": self._get_sms_result,
            "sendlater/get": self._sendlater_get,
            "sendlater/getall": self._sendlater_getall,
            "sendlater/update": self._sendlater_update,
            "sendlater/cancel": self._sendlater_cancel,
            "getMsgReceived": self._get_msg_received,
            "getMsgUpdates": self._get_msg_updates,
        }
        self.reset()

    # ---------------------------------------------------------------- the outside: HTTP

    def handle(self, method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        """Act on one request to one of the eight endpoints.

        Args:
            method: ``GET`` or ``POST``.
            endpoint: As in :data:`ENDPOINTS`.
            query: The URL's query, still percent-encoded.
            body: The form, still percent-encoded; its parameters come after the query's, and the first of a name wins.
        """
        params: dict[str, bytes] = {}
        if query:
            _parse_form(query, params)
        in_url = "user" in params or "pwd" in params
        if body:
            _parse_form(body, params)
        with self.lock:
            now = self.clock.timestamp()
            self._settle(now)
            exchange = _Exchange(params, now, self.faults.draw(endpoint))
            outcome, answer = None, ""
            if exchange.fault is None or exchange.fault.processes:
                outcome, answer = self._act(endpoint, exchange)
            fault = exchange.fault
            if fault is not None and fault.kind == "late":
                self._plan(now + fault.delay_s, _Late(endpoint, params))
            reply = self._dress(endpoint, answer, fault)
            self._record(
                Request(
                    now,
                    endpoint,
                    method,
                    None if reply.dropped else reply.status,
                    outcome,
                    None if fault is None else fault.kind,
                    in_url,
                )
            )
        return reply

    def _act(self, endpoint: str, exchange: _Exchange) -> tuple[str | None, str]:
        try:
            return "A", self._handlers[endpoint](exchange)
        except _Refusal as refusal:
            return f"N{refusal.code}", self.settings.dialect.refused(refusal.code)
        except _Interruption as interruption:
            exchange.fault = interruption.fault
            return None, ""

    def _dress(self, endpoint: str, answer: str, fault: Fault | None) -> Reply:
        dialect = self.settings.dialect
        delay_s = self.settings.latency_ms / 1000
        headers = [(b"content-type", dialect.content_type)]
        body = dialect.encode(answer)
        if fault is None:
            return Reply(200, headers, body, len(body), delay_s)
        match fault.kind:
            case "answer_lost" | "lost_before" | "late":
                return Reply(0, [], b"", 0, delay_s, dropped=True)
            case "error_before" | "error_after":
                body = f"HTTP {fault.status} from the sandbox\n".encode()
                return Reply(fault.status, [_TEXT_PLAIN], body, len(body), delay_s)
            case "rate_limited":
                headers = [_TEXT_PLAIN]
                if fault.retry_after_s is not None:
                    headers.append((b"retry-after", str(fault.retry_after_s).encode()))
                return Reply(429, headers, b"Too many requests\n", 18, delay_s)
            case "slow":
                return Reply(200, headers, body, len(body), delay_s + fault.delay_s)
            case "truncated":
                # At least one byte must be missing, or it would not be truncated.
                keep = len(body) // 2 if fault.keep_bytes is None else min(fault.keep_bytes, len(body) - 1)
                return Reply(200, headers, body[: max(keep, 0)], max(len(body), 1), delay_s)
            case "cut_short":
                keep = (
                    (1 if endpoint == "sendSms" else len(body) // 2) if fault.keep_bytes is None else fault.keep_bytes
                )
                return Reply(200, headers, body[:keep], len(body[:keep]), delay_s)
            case "html":
                headers = [(b"content-type", b"text/html; charset=utf-8")]
                return Reply(200, headers, _LOGIN_PAGE, len(_LOGIN_PAGE), delay_s)
            case "empty":
                return Reply(200, headers, b"", 0, delay_s)
            case _:
                body = dialect.encode(dialect.refused(fault.code))
                return Reply(200, headers, body, len(body), delay_s)

    def _record(self, request: Request) -> None:
        self.requests.append(request)
        self.request_count += 1
        self.credentials_in_url_count += request.credentials_in_url
        if request.fault is not None:
            self._faults_struck[request.fault] += 1

    # ---------------------------------------------------------------- the outside: tests and the JSON API

    def reset(self) -> None:
        """Back to the state at creation: accounts, settings, faults, and the clock."""
        with self.lock:
            self.settings = self._initial_settings
            self.accounts: dict[str, Account] = {a.user: replace(a) for a in self._initial_accounts}
            seed, random, scripted = self._initial_faults
            self.faults.replace(seed=seed, random=random, scripted=scripted)
            self.clock.speed, self.clock.frozen = self._initial_speed, self._initial_frozen
            self.clock.restart()
            self.messages: dict[int, Message] = {}
            self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT)
            self.request_count = 0
            self.credentials_in_url_count = 0
            self._faults_struck: Counter[str] = Counter()
            self._books: dict[str, _Books] = {}
            self._agenda: list[tuple[float, int, _Reply | _Late]] = []
            self._agenda_count = 0
            self._scheduled: dict[str, dict[int, Message]] = {}
            self._tries: Counter[tuple[str, str]] = Counter()
            self._last_id = _FIRST_ID - 1
            self._last_recipient_id = 0

    def receive(
        self,
        *,
        originator: str,
        text: str,
        prefix: str | None = "DEMO",
        kind: str = "SMS",
        user: str | None = None,
        alias: str | None = None,
        subject: str | None = None,
        received_at: datetime | None = None,
    ) -> ReceivedMessage:
        """Put a received message into an account's inbox, as if a phone had sent it.

        Args:
            originator: The sender's MSISDN.
            text: What was written; may hold anything.
            prefix: The keyword that routed it.
            kind: ``SMS``, ``VOI`` or ``DPN``.
            user: Whose inbox; the first account's when None.
            alias: The sender's alias.
            subject: MMS subject.
            received_at: When, aware; simulated now when None.
        """
        if kind not in {"SMS", "VOI", "DPN"}:
            raise ConfigurationError(f"kind is SMS, VOI or DPN, not {kind!r}.")
        if received_at is not None and (received_at.tzinfo is None or not 2000 <= received_at.year < END.year):
            raise ConfigurationError("received_at needs a time zone, and a year of this century.")
        with self.lock:
            now = self.clock.timestamp()
            self._settle(now)
            owner = next(iter(self.accounts)) if user is None else user
            if owner not in self.accounts:
                raise ConfigurationError(f"There is no account {owner!r}.")
            message = ReceivedMessage(
                message_id=str(self._next_id()),
                received_at=received_at.astimezone(UTC) if received_at else datetime.fromtimestamp(now, UTC),
                user=owner,
                prefix=prefix,
                kind=kind,
                sender=originator,
                alias=alias,
                subject=subject,
                text=text,
            )
            self._books_of(owner).inbox.append(message)
            return message

    def inbox(self, user: str | None = None) -> list[ReceivedMessage]:
        """What phones have sent, oldest first, without collecting it; of all accounts when ``user`` is None."""
        with self.lock:
            self._settle(self.clock.timestamp())
            return [m for owner, books in self._books.items() if user in {None, owner} for m in books.inbox]

    def archive(self, message_id: str | int) -> None:
        """Archive a message now: getSmsResult answers 323 for it.

        Raises:
            KeyError: There is no such message.
        """
        with self.lock:
            self.messages[int(message_id)].archived = True

    def ledger(self, *, msisdn: str | None = None) -> list[dict[str, Any]]:
        """Every accepted message in order of acceptance, ready for JSON; times in ISO 8601 UTC.

        Args:
            msisdn: Only messages to this number.
        """
        with self.lock:
            now = self.clock.timestamp()
            self._settle(now)
            return [
                _message_json(m, now)
                for m in self.messages.values()
                if msisdn is None or any(r.msisdn == msisdn for r in m.recipients)
            ]

    def summary(self) -> Counter[tuple[str, str]]:
        """How many times each (MSISDN, text) was accepted and not cancelled; more than one is a duplicate SMS."""
        with self.lock:
            self._settle(self.clock.timestamp())
            return Counter((r.msisdn, m.text) for m in self.messages.values() if not m.cancelled for r in m.recipients)

    def faults_struck(self) -> dict[str, int]:
        """How many requests met each kind of fault since the last reset."""
        with self.lock:
            return dict(self._faults_struck)

    def configure(self, given: Mapping[str, object]) -> None:
        """Change settings and accounts as ``PUT /_sandbox/settings`` does: only the keys given.

        Raises:
            ConfigurationError: A key is unknown or has a value of the wrong type; nothing has changed.
        """
        with self.lock:
            known = {"accounts", *self.settings.as_json()}
            if unknown := sorted(set(given) - known):
                raise ConfigurationError(f"Unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
            settings = self.settings.changed({k: v for k, v in given.items() if k != "accounts"})
            accounts = dict(self.accounts)
            changes = given.get("accounts", {})
            if not isinstance(changes, dict):
                raise ConfigurationError("accounts must be a JSON object: settings by user, null to remove one.")
            for user, change in changes.items():
                if change is None:
                    accounts.pop(user, None)
                else:
                    fresh = accounts[user] if user in accounts else Account(user=user)
                    accounts[user] = fresh.changed(change)
            if not accounts:
                raise ConfigurationError("At least one account must remain.")
            self.settings, self.accounts = settings, accounts

    # ---------------------------------------------------------------- time

    def _settle(self, now: float) -> None:
        """Let everything happen that was due by ``now``: phones' replies, and requests that arrive late."""
        while self._agenda and self._agenda[0][0] <= now:
            due, _, event = heapq.heappop(self._agenda)
            if isinstance(event, _Reply):
                message = event.message
                if not message.cancelled and message.generation == event.generation and message.user in self.accounts:
                    self.receive(
                        originator=event.originator,
                        text=event.text,
                        user=message.user,
                        received_at=datetime.fromtimestamp(due, UTC),
                    )
            else:
                self._act(event.endpoint, _Exchange(event.params, due, repeat_magic=False))

    def _plan(self, when: float, event: _Reply | _Late) -> None:
        self._agenda_count += 1
        heapq.heappush(self._agenda, (when, self._agenda_count, event))

    def _schedule_recipients(self, message: Message) -> None:
        """Compute when each recipient's SMS is sent and becomes final, the same for the same id and number."""
        settings, books = self.settings, self._books_of(message.user)
        start = message.accepted_at if message.scheduled_at is None else message.scheduled_at
        for recipient in message.recipients:
            magic = MAGIC_NUMBERS.get(recipient.msisdn, ORDINARY)
            if not magic.sent:
                continue
            spread = crc32(f"{message.message_id}:{recipient.msisdn}".encode())
            sent_at = start + settings.sent_after_s * (0.5 + (spread & 0xFFFF) / 0x10000)
            recipient.sent_at = sent_at
            if magic.word is None:
                continue
            if magic.delivery_delay_s is None:
                final_at = sent_at + settings.delivered_after_s * (0.5 + (spread >> 16) / 0x10000)
            else:
                final_at = sent_at + magic.delivery_delay_s
            recipient.final_at, recipient.word = final_at, magic.word
            heapq.heappush(books.reports, (final_at, recipient.recipient_id, message.generation, message, recipient))
            if magic.reply is not None:
                reply = _Reply(message, message.generation, recipient.msisdn, magic.reply)
                self._plan(final_at + _REPLY_DELAY_S, reply)

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _books_of(self, user: str) -> _Books:
        books = self._books.get(user)
        if books is None:
            books = self._books[user] = _Books()
        return books

    # ---------------------------------------------------------------- the eight endpoints

    def _authorized(self, params: Mapping[str, bytes]) -> Account:
        """The account that logs in; codes 22 to 25 and 7 are common to all endpoints."""
        user, password = params.get("user"), params.get("pwd")
        if user is None:
            raise _Refusal(23)
        if not user:
            raise _Refusal(22)
        if password is None:
            raise _Refusal(25)
        if not password:
            raise _Refusal(24)
        # Only sendSms says which charset it uses, so credentials may come in UTF-8 or ISO-8859-1 everywhere.
        account = self.accounts.get(user.decode("utf-8", "replace")) or self.accounts.get(user.decode("iso-8859-1"))
        if account is None or password not in _encodings(account.password):
            raise _Refusal(7)
        return account

    def _send_sms(self, exchange: _Exchange) -> str:
        """Section 4.1."""
        params, now = exchange.params, exchange.now
        account = self._authorized(params)
        charset = params.get("charset", b"iso-8859-1").decode("ascii", "replace")
        originator = self._originator(account, params.get("originator"), charset)
        raw_recipients = _required(params, "recipients", missing=29, empty=282)
        text = _decoded(_required(params, "msg", missing=31, empty=30), charset)
        if len(text) > MAX_TEXT_CHARACTERS:
            raise _Refusal(303)
        flash = _choice(params, "isflash", 36)
        _choice(params, "express", 38)
        port = params.get("destinationport", b"0").decode("iso-8859-1")
        if not _NUMBER.fullmatch(port) or int(port) > 65535:
            raise _Refusal(37)
        scheduled_at = None
        if "deliverytime" in params:
            scheduled_at = _delivery_time(params["deliverytime"], now)
        numbers = _numbers(account, _decoded(raw_recipients, charset))

        fault = self._magic_fault(numbers, text) if exchange.repeat_magic else None
        if fault is not None and not fault.processes:
            raise _Interruption(fault)
        if account.max_recipients is not None and len(numbers) > account.max_recipients:
            raise _Refusal(11)
        books = self._books_of(account.user)
        if account.max_messages is not None and books.sms + len(numbers) > account.max_messages:
            raise _Refusal(11)
        if account.credits is not None:
            if account.credits < len(numbers):
                raise _Refusal(12)
            account.credits -= len(numbers)
        books.sms += len(numbers)

        first = self._last_recipient_id + 1
        self._last_recipient_id += len(numbers)
        message = Message(
            message_id=self._next_id(),
            user=account.user,
            originator=originator,
            text=text,
            recipients=[Recipient(first + i, number) for i, number in enumerate(numbers)],
            accepted_at=now,
            scheduled_at=scheduled_at,
            flash=flash,
            destination_port=int(port),
        )
        self.messages[message.message_id] = message
        if scheduled_at is not None:
            self._scheduled.setdefault(account.user, {})[message.message_id] = message
        self._schedule_recipients(message)
        if exchange.fault is None:
            exchange.fault = fault
        return self.settings.dialect.accepted(str(message.message_id))

    def _originator(self, account: Account, given: bytes | None, charset: str) -> str:
        registered = account.originators
        if not given:
            # The form of section 5.2.1 marks every field as mandatory but this one, and no code says it is missing.
            if not registered:
                raise _Refusal(33)
            return registered[0]
        originator = _decoded(given, charset)
        if registered is not None and originator not in registered:
            raise _Refusal(33)
        return originator

    def _magic_fault(self, numbers: Sequence[str], text: str) -> Fault | None:
        for number in numbers:
            magic = MAGIC_NUMBERS.get(number)
            if magic is None or magic.fault is None:
                continue
            if magic.every_other:
                self._tries[number, text] += 1
                if self._tries[number, text] % 2 == 0:
                    continue
            return magic.fault
        return None

    def _get_sms_result(self, exchange: _Exchange) -> str:
        """Section 4.2."""
        now = exchange.now
        message = self._message(self._authorized(exchange.params), exchange.params, "msgId")
        if self._archived(message, now):
            raise _Refusal(323)
        zone = self.settings.zone
        sent = delivered = 0
        rows = []
        for recipient in message.recipients:
            sent_at, word, delivered_at = (None, "undelivered", None) if message.cancelled else recipient.state(now)
            sent += sent_at is not None
            delivered += delivered_at is not None
            rows.append(f"{recipient.msisdn}\t{minutes(sent_at, zone)}\t{word}\t{minutes(delivered_at, zone)}")
        return self.settings.dialect.accepted(f"{len(rows)}/{sent}/{delivered}", *rows)

    def _sendlater_get(self, exchange: _Exchange) -> str:
        """Section 4.3.1."""
        message = self._scheduled_message(exchange)
        return self.settings.dialect.accepted(self._schedule_row(message))

    def _sendlater_getall(self, exchange: _Exchange) -> str:
        """Section 4.3.2."""
        account = self._authorized(exchange.params)
        scheduled = self._scheduled.get(account.user, {})
        for message in [m for m in scheduled.values() if not m.waiting(exchange.now)]:
            del scheduled[message.message_id]
        order = sorted(scheduled, reverse=self.settings.dialect.order == "descending")
        return self.settings.dialect.accepted(*(self._schedule_row(scheduled[i]) for i in order))

    def _sendlater_update(self, exchange: _Exchange) -> str:
        """Section 4.3.4."""
        message = self._scheduled_message(exchange)
        scheduled_at = _delivery_time(exchange.params.get("deliverytime", b""), exchange.now)
        if not message.waiting(exchange.now):
            raise _Refusal(351)
        message.scheduled_at = scheduled_at
        message.generation += 1
        self._schedule_recipients(message)
        return self.settings.dialect.accepted()

    def _sendlater_cancel(self, exchange: _Exchange) -> str:
        """Section 4.3.5."""
        message = self._scheduled_message(exchange)
        if not message.waiting(exchange.now):
            raise _Refusal(351)
        message.cancelled = True
        self._scheduled[message.user].pop(message.message_id, None)
        self._books_of(message.user).sms -= len(message.recipients)
        account = self.accounts[message.user]
        if account.credits is not None:
            account.credits += len(message.recipients)
        return self.settings.dialect.accepted()

    def _get_msg_received(self, exchange: _Exchange) -> str:
        """Section 4.4."""
        params = exchange.params
        account = self._authorized(params)
        after = int(_number(params, "lastMsgId"))
        clean = washed if params.get("clean", b"").lower() == b"true" else str
        records = [
            "\t".join(
                clean(field)
                for field in (
                    message.message_id,
                    self._received_minute(message),
                    account.user,
                    message.prefix or "null",
                    message.kind or "null",
                    message.sender or "null",
                    message.alias or "null",
                    message.subject or "null",
                    message.text,
                )
            )
            for message in self._books_of(account.user).inbox
            if int(message.message_id) > after
        ]
        if self.settings.dialect.order == "descending":
            records.reverse()
        return self.settings.dialect.records_answer(records)

    def _get_msg_updates(self, exchange: _Exchange) -> str:
        """Section 4.5: what it returns it never returns again."""
        account = self._authorized(exchange.params)
        if not account.updates:
            raise _Refusal(7)
        now, settings = exchange.now, self.settings
        books = self._books_of(account.user)
        records = []
        while books.reports and books.reports[0][0] <= now:
            final_at, recipient_id, generation, message, recipient = heapq.heappop(books.reports)
            if message.cancelled or message.generation != generation:
                continue
            at = final_at if recipient.word == "delivered" else None
            if settings.dialect.update_time == "minutes":
                time = minutes(at, settings.zone)
            else:
                time = "-1" if at is None else settings.dialect.smpp(at, settings.zone)
            records.append(f"0\t{message.message_id}\t{recipient_id}\t{recipient.msisdn}\t{recipient.word}\t{time}")
        records.extend(
            f"1\t{received.message_id}\t{received.sender or 'null'}\t{self._received_minute(received)}"
            f"\t{received.prefix or 'null'}\t{received.kind}\t{received.text}"
            for received in books.inbox[books.collected :]
        )
        books.collected = len(books.inbox)
        if settings.dialect.order == "descending":
            records.reverse()
        return settings.dialect.records_answer(records)

    # ---------------------------------------------------------------- shared by the endpoints

    def _message(self, account: Account, params: Mapping[str, bytes], name: str) -> Message:
        message = self.messages.get(int(_number(params, name)))
        if message is None or message.user != account.user:
            raise _Refusal(32)
        return message

    def _scheduled_message(self, exchange: _Exchange) -> Message:
        message = self._message(self._authorized(exchange.params), exchange.params, "msgno")
        if message.cancelled or self._archived(message, exchange.now):
            raise _Refusal(32)
        return message

    def _archived(self, message: Message, now: float) -> bool:
        limit = self.settings.archive_after_s
        start = max(message.accepted_at, message.scheduled_at or 0.0)
        return message.archived or (limit is not None and now >= start + limit)

    def _schedule_row(self, message: Message) -> str:
        if message.scheduled_at is None:
            return f"{message.message_id}\t"
        return f"{message.message_id}\t{self.settings.dialect.smpp(message.scheduled_at, self.settings.zone)}"

    def _received_minute(self, message: ReceivedMessage) -> str:
        return minutes(None if message.received_at is None else message.received_at.timestamp(), self.settings.zone)


# ---------------------------------------------------------------- reading requests


def _parse_form(data: bytes, params: dict[str, bytes]) -> None:
    """Add the form's parameters to ``params`` as bytes; which charset they are in is known only afterwards."""
    for pair in data.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            value = value.replace(b"+", b" ")
            key = unquote_to_bytes(name.replace(b"+", b" ")).decode("iso-8859-1")
            params.setdefault(key, unquote_to_bytes(value) if b"%" in value else value)


def _required(params: Mapping[str, bytes], name: str, *, missing: int, empty: int) -> bytes:
    value = params.get(name)
    if value is None:
        raise _Refusal(missing)
    if not value:
        raise _Refusal(empty)
    return value


def _number(params: Mapping[str, bytes], name: str) -> str:
    value = _required(params, name, missing=392, empty=392).decode("iso-8859-1")
    if not _NUMBER.fullmatch(value):
        raise _Refusal(391)
    return value


def _choice(params: Mapping[str, bytes], name: str, code: int) -> bool:
    value = params.get(name, b"false").lower()
    if value not in {b"true", b"false"}:
        raise _Refusal(code)
    return value == b"true"


def _decoded(value: bytes, charset: str) -> str:
    try:
        return value.decode(_charset(charset))
    except (LookupError, ValueError):
        # Unknown charset, or bytes that are not of it: the document has no code of its own for either.
        raise _Refusal(303) from None


@lru_cache(maxsize=64)
def _charset(name: str) -> str:
    """The codec of a charset.

    Raises:
        LookupError: Python may know a codec of that name, but it is no character set of text on the wire.
    """
    codec = codecs.lookup(name).name
    if codec in _NOT_CHARSETS:
        raise LookupError(name)
    return codec


def _delivery_time(value: bytes, now: float) -> float:
    match = _DELIVERY_TIME.fullmatch(value.decode("iso-8859-1"))
    if match is None:
        raise _Refusal(34)
    year, month, day, hour, minute, hours = (int(match[i]) for i in (1, 2, 3, 4, 5, 7))
    if hours > 14:
        raise _Refusal(34)
    try:
        local = datetime(year, month, day, hour, minute, tzinfo=UTC)
        moment = local - timedelta(hours=-hours if match[6] == "-" else hours)
        timestamp = moment.timestamp()
    except (ValueError, OverflowError):
        raise _Refusal(34) from None
    if not now < timestamp < END.timestamp():
        raise _Refusal(35)
    return timestamp


def _numbers(account: Account, recipients: str) -> list[str]:
    """The numbers a list of recipients stands for; one entry that is neither number nor group refuses them all."""
    numbers: list[str] = []
    for entry in recipients.split(","):
        name = entry.strip()
        if MSISDN.fullmatch(name):
            numbers.append(name)
        elif name in account.groups:
            numbers.extend(account.groups[name])
        else:
            raise _Refusal(28)
    if any((magic := MAGIC_NUMBERS.get(number)) is not None and magic.refused for number in numbers):
        raise _Refusal(28)
    if not numbers:
        raise _Refusal(282)
    return numbers


@lru_cache(maxsize=64)
def _encodings(text: str) -> frozenset[bytes]:
    try:
        return frozenset({text.encode(), text.encode("iso-8859-1")})
    except UnicodeEncodeError:
        return frozenset({text.encode()})


# ---------------------------------------------------------------- showing state


def iso(timestamp: float | None) -> str | None:
    """A timestamp in ISO 8601, UTC, to the millisecond."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")


def _message_json(message: Message, now: float) -> dict[str, Any]:
    recipients = []
    for recipient in message.recipients:
        sent_at, word, delivered_at = (None, "undelivered", None) if message.cancelled else recipient.state(now)
        recipients.append(
            {
                "recipient_id": str(recipient.recipient_id),
                "msisdn": recipient.msisdn,
                "status": word,
                "sent_at": iso(sent_at),
                "delivered_at": iso(delivered_at),
            }
        )
    return {
        "id": str(message.message_id),
        "account": message.user,
        "originator": message.originator,
        "text": message.text,
        "accepted_at": iso(message.accepted_at),
        "scheduled_at": iso(message.scheduled_at),
        "cancelled": message.cancelled,
        "flash": message.flash,
        "destination_port": message.destination_port,
        "recipients": recipients,
    }


__all__ = ["ENDPOINTS", "Gateway", "Message", "Recipient", "Reply", "Request"]
