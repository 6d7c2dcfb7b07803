"""The gateway: requests in, responses out, faults in between, and the state that tests may read and change.

A request comes in as bytes and leaves as a :class:`Reply`: the bytes for the wire, or none. Nothing runs in the
background: the effects of time (sending, delivery, replies, late requests) are computed from the clock at each call.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from prefect_mymsp.errors import ConfigurationError
from prefect_mymsp.models import ReceivedMessage
from prefect_mymsp.sandbox.accounts import Account, Settings, change_accounts
from prefect_mymsp.sandbox.clock import END, Clock
from prefect_mymsp.sandbox.endpoints import HANDLERS, Interruption
from prefect_mymsp.sandbox.faults import Fault, FaultPlan
from prefect_mymsp.sandbox.forms import Refusal, parse_form
from prefect_mymsp.sandbox.messages import Message, Reply, RequestEntry, message_json
from prefect_mymsp.sandbox.state import Exchange, GatewayState, LateRequest, ReplyEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REQUESTS_KEPT: Final = 10_000

_LOGIN_PAGE: Final = (
    b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body><form method='post' action='/app/login'>"
    b"<input name='user'><input name='pwd' type='password'><input type='submit' value='Log in'></form></body></html>\n"
)
_TEXT_PLAIN: Final = (b"content-type", b"text/plain; charset=utf-8")


class Gateway:
    """A myMSP gateway in memory.

    Every public method takes the lock, so a test may look at it while the server runs. For several steps that must not
    be interrupted, hold :attr:`lock` (it is reentrant).

    Args:
        accounts: Accounts that may log in; one account ``demo`` with password ``demo-password`` when not given.
        settings: Delivery times, dialect and the like.
        faults: Faults to apply; none when not given.
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
        self._initial_accounts = [replace(account) for account in ([Account()] if accounts is None else accounts)]
        self._initial_settings = settings or Settings()
        self.faults = faults or FaultPlan()
        self._initial_faults = (self.faults.seed, list(self.faults.random), self.faults.remaining())
        self.clock = clock or Clock()
        self._initial_speed, self._initial_frozen = self.clock.speed, self.clock.frozen
        self.reset()

    # ---------------------------------------------------------------- HTTP

    def handle(self, method: str, endpoint: str, query: bytes, body: bytes) -> Reply:
        """Act on one request to one of the eight endpoints.

        Args:
            method: ``GET`` or ``POST``.
            endpoint: As in :data:`~prefect_mymsp.sandbox.faults.ENDPOINTS`.
            query: The URL's query, still percent-encoded.
            body: The form, still percent-encoded; its parameters come after the query's, and the first of a name wins.
        """
        params: dict[str, bytes] = {}
        if query:
            parse_form(query, params)
        in_url = "user" in params or "pwd" in params
        if body:
            parse_form(body, params)
        with self.lock:
            now = self.clock.timestamp()
            self._settle(now)
            exchange = Exchange(params, now, self.faults.draw(endpoint))
            outcome, response = None, ""
            if exchange.fault is None or exchange.fault.processes:
                outcome, response = self._process(endpoint, exchange)
            fault = exchange.fault
            if fault is not None and fault.kind == "late":
                self._state.plan(now + fault.delay_s, LateRequest(endpoint, params))
            reply = self._respond(endpoint, response, fault)
            self._record(
                RequestEntry(
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

    def _process(self, endpoint: str, exchange: Exchange) -> tuple[str | None, str]:
        try:
            return "A", HANDLERS[endpoint](self._state, exchange)
        except Refusal as refusal:
            return f"N{refusal.code}", self.settings.dialect.refused(refusal.code)
        except Interruption as interruption:
            exchange.fault = interruption.fault
            return None, ""

    def _respond(self, endpoint: str, response: str, fault: Fault | None) -> Reply:
        dialect = self.settings.dialect
        delay_s = self.settings.latency_ms / 1000
        headers = [(b"content-type", dialect.content_type)]
        body = dialect.encode(response)
        if fault is None:
            return Reply(200, headers, body, len(body), delay_s)
        match fault.kind:
            case "response_lost" | "lost_before" | "late":
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

    def _record(self, request: RequestEntry) -> None:
        self.requests.append(request)
        self.request_count += 1
        self.credentials_in_url_count += request.credentials_in_url
        if request.fault is not None:
            self._applied_faults[request.fault] += 1

    # ---------------------------------------------------------------- tests and the JSON API

    def reset(self) -> None:
        """Back to the state at creation: accounts, settings, faults, and the clock."""
        with self.lock:
            self._state = GatewayState(self._initial_accounts, self._initial_settings)
            seed, random, scripted = self._initial_faults
            self.faults.replace(seed=seed, random=random, scripted=scripted)
            self.clock.speed, self.clock.frozen = self._initial_speed, self._initial_frozen
            self.clock.restart()
            self.requests: deque[RequestEntry] = deque(maxlen=REQUESTS_KEPT)
            self.request_count = 0
            self.credentials_in_url_count = 0
            self._applied_faults: Counter[str] = Counter()

    @property
    def accounts(self) -> dict[str, Account]:
        """Accounts by user."""
        return self._state.accounts

    @property
    def settings(self) -> Settings:
        """Delivery times, dialect and the like."""
        return self._state.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._state.settings = settings

    @property
    def messages(self) -> dict[int, Message]:
        """Accepted messages by id, in order of acceptance."""
        return self._state.messages

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
            text: The text; may hold anything.
            prefix: The keyword that routed it.
            kind: ``SMS``, ``VOI`` or ``DPN``.
            user: The account that receives it; the first when None.
            alias: The sender's alias.
            subject: MMS subject.
            received_at: Time of receipt, aware; simulated now when None.
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
                message_id=str(self._state.next_id()),
                received_at=received_at.astimezone(UTC) if received_at else datetime.fromtimestamp(now, UTC),
                user=owner,
                prefix=prefix,
                kind=kind,
                sender=originator,
                alias=alias,
                subject=subject,
                text=text,
            )
            self._state.mailbox_of(owner).inbox.append(message)
            return message

    def inbox(self, user: str | None = None) -> list[ReceivedMessage]:
        """Received messages, oldest first, without collecting them; of all accounts when ``user`` is None."""
        with self.lock:
            self._settle(self.clock.timestamp())
            return [
                message
                for owner, mailbox in self._state.mailboxes()
                if user in {None, owner}
                for message in mailbox.inbox
            ]

    def archive(self, message_id: str | int) -> None:
        """Archive a message now: getSmsResult returns 323 for it.

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
                message_json(message, now)
                for message in self.messages.values()
                if msisdn is None or any(recipient.msisdn == msisdn for recipient in message.recipients)
            ]

    def summary(self) -> Counter[tuple[str, str]]:
        """Number of times each (MSISDN, text) was accepted and not cancelled; more than one is a duplicate SMS."""
        with self.lock:
            self._settle(self.clock.timestamp())
            return Counter(
                (recipient.msisdn, message.text)
                for message in self.messages.values()
                if not message.cancelled
                for recipient in message.recipients
            )

    def applied_faults(self) -> dict[str, int]:
        """Number of requests that each kind of fault has applied to since the last reset."""
        with self.lock:
            return dict(self._applied_faults)

    def configure(self, changes: Mapping[str, object]) -> None:
        """Change settings and accounts as ``PUT /_sandbox/settings`` does: only the keys that are given.

        Raises:
            ConfigurationError: A key is unknown or has a value of the wrong type; nothing has changed.
        """
        with self.lock:
            accounts = change_accounts(self.accounts, changes.get("accounts", {}))
            self.settings = self.settings.changed({key: changes[key] for key in changes if key != "accounts"})
            self._state.accounts = accounts

    # ---------------------------------------------------------------- time

    def _settle(self, now: float) -> None:
        """Let everything happen that was due by ``now``: phones' replies, and requests that arrive late."""
        while self._state.events and self._state.events[0][0] <= now:
            due, _, event = heapq.heappop(self._state.events)
            if isinstance(event, ReplyEvent):
                message = event.message
                if not message.cancelled and message.generation == event.generation and message.user in self.accounts:
                    self.receive(
                        originator=event.originator,
                        text=event.text,
                        user=message.user,
                        received_at=datetime.fromtimestamp(due, UTC),
                    )
            else:
                self._process(event.endpoint, Exchange(event.params, due, repeat_magic=False))
