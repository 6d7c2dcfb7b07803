"""The eight endpoints: a request's parameters in, the body of the response out, the state changed.

Source: vendor's document, revision M; the choices it leaves open are listed in ``docs/sandbox.md``.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from prefect_mymsp.sandbox.dialect import clean_text, minutes
from prefect_mymsp.sandbox.forms import (
    Refusal,
    decode,
    parse_delivery_time,
    parse_flag,
    parse_id,
    parse_port,
    parse_recipients,
    password_forms,
    required,
)
from prefect_mymsp.sandbox.magic import MAGIC_NUMBERS
from prefect_mymsp.sandbox.messages import Message, Recipient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prefect_mymsp.models import ReceivedMessage
    from prefect_mymsp.sandbox.accounts import Account
    from prefect_mymsp.sandbox.faults import Fault
    from prefect_mymsp.sandbox.state import Exchange, GatewayState

MAX_TEXT_CHARACTERS: Final = 765


class Interruption(Exception):  # noqa: N818  not an error of ours
    """The fault of a magic number prevents processing."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


def _log_in(state: GatewayState, params: Mapping[str, bytes]) -> Account:
    """The account that logs in; codes 22 to 25 and 7 are common to all endpoints."""
    user, password = params.get("user"), params.get("pwd")
    if user is None:
        raise Refusal(23)
    if not user:
        raise Refusal(22)
    if password is None:
        raise Refusal(25)
    if not password:
        raise Refusal(24)
    # Only sendSms declares its charset, so credentials may come in UTF-8 or ISO-8859-1 everywhere.
    account = state.accounts.get(user.decode("utf-8", "replace")) or state.accounts.get(user.decode("iso-8859-1"))
    if account is None or password not in password_forms(account.password):
        raise Refusal(7)
    return account


def _send_sms(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.1."""
    params, now = exchange.params, exchange.now
    account = _log_in(state, params)
    charset = params.get("charset", b"iso-8859-1").decode("ascii", "replace")
    originator = _originator(account, params.get("originator"), charset)
    raw_recipients = required(params, "recipients", missing=29, empty=282)
    text = decode(required(params, "msg", missing=31, empty=30), charset)
    if len(text) > MAX_TEXT_CHARACTERS:
        raise Refusal(303)
    flash = parse_flag(params, "isflash", 36)
    parse_flag(params, "express", 38)
    port = parse_port(params)
    scheduled_at = None
    if "deliverytime" in params:
        scheduled_at = parse_delivery_time(params["deliverytime"], now)
    numbers = parse_recipients(account, decode(raw_recipients, charset))

    fault = _magic_fault(state, numbers, text) if exchange.repeat_magic else None
    if fault is not None and not fault.processes:
        raise Interruption(fault)
    if account.max_recipients is not None and len(numbers) > account.max_recipients:
        raise Refusal(11)
    mailbox = state.mailbox_of(account.user)
    if account.max_messages is not None and mailbox.sms + len(numbers) > account.max_messages:
        raise Refusal(11)
    if account.credits is not None:
        if account.credits < len(numbers):
            raise Refusal(12)
        account.credits -= len(numbers)
    mailbox.sms += len(numbers)

    first = state.reserve_recipient_ids(len(numbers))
    message = Message(
        message_id=state.next_id(),
        user=account.user,
        originator=originator,
        text=text,
        recipients=[Recipient(first + i, number) for i, number in enumerate(numbers)],
        accepted_at=now,
        scheduled_at=scheduled_at,
        flash=flash,
        destination_port=port,
    )
    state.messages[message.message_id] = message
    if scheduled_at is not None:
        state.scheduled.setdefault(account.user, {})[message.message_id] = message
    state.schedule_recipients(message)
    if exchange.fault is None:
        exchange.fault = fault
    return state.settings.dialect.accepted(str(message.message_id))


def _originator(account: Account, value: bytes | None, charset: str) -> str:
    registered = account.originators
    if not value:
        # The form of section 5.2.1 marks every field as mandatory but this one, and no code says it is missing.
        if not registered:
            raise Refusal(33)
        return registered[0]
    originator = decode(value, charset)
    if registered is not None and originator not in registered:
        raise Refusal(33)
    return originator


def _magic_fault(state: GatewayState, numbers: Sequence[str], text: str) -> Fault | None:
    for number in numbers:
        magic = MAGIC_NUMBERS.get(number)
        if magic is None or magic.fault is None:
            continue
        if magic.every_other:
            state.magic_attempts[number, text] += 1
            if state.magic_attempts[number, text] % 2 == 0:
                continue
        return magic.fault
    return None


def _get_sms_result(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.2."""
    now = exchange.now
    message = _message(state, _log_in(state, exchange.params), exchange.params, "msgId")
    if _is_archived(state, message, now):
        raise Refusal(323)
    zone = state.settings.zone
    sent = delivered = 0
    rows = []
    for recipient in message.recipients:
        sent_at, word, delivered_at = (None, "undelivered", None) if message.cancelled else recipient.state(now)
        sent += sent_at is not None
        delivered += delivered_at is not None
        rows.append(f"{recipient.msisdn}\t{minutes(sent_at, zone)}\t{word}\t{minutes(delivered_at, zone)}")
    return state.settings.dialect.accepted(f"{len(rows)}/{sent}/{delivered}", *rows)


def _sendlater_get(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.3.1."""
    message = _scheduled_message(state, exchange)
    return state.settings.dialect.accepted(_schedule_row(state, message))


def _sendlater_getall(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.3.2."""
    account = _log_in(state, exchange.params)
    scheduled = state.scheduled.get(account.user, {})
    for message in [m for m in scheduled.values() if not m.waiting(exchange.now)]:
        del scheduled[message.message_id]
    order = sorted(scheduled, reverse=state.settings.dialect.order == "descending")
    return state.settings.dialect.accepted(*(_schedule_row(state, scheduled[i]) for i in order))


def _sendlater_update(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.3.4."""
    message = _scheduled_message(state, exchange)
    scheduled_at = parse_delivery_time(exchange.params.get("deliverytime", b""), exchange.now)
    if not message.waiting(exchange.now):
        raise Refusal(351)
    message.scheduled_at = scheduled_at
    message.generation += 1
    state.schedule_recipients(message)
    return state.settings.dialect.accepted()


def _sendlater_cancel(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.3.5."""
    message = _scheduled_message(state, exchange)
    if not message.waiting(exchange.now):
        raise Refusal(351)
    message.cancelled = True
    state.scheduled[message.user].pop(message.message_id, None)
    state.mailbox_of(message.user).sms -= len(message.recipients)
    account = state.accounts[message.user]
    if account.credits is not None:
        account.credits += len(message.recipients)
    return state.settings.dialect.accepted()


def _get_msg_received(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.4."""
    params = exchange.params
    account = _log_in(state, params)
    after = int(parse_id(params, "lastMsgId"))
    clean = clean_text if params.get("clean", b"").lower() == b"true" else str
    records = [
        "\t".join(
            clean(field)
            for field in (
                message.message_id,
                _received_minute(state, message),
                account.user,
                message.prefix or "null",
                message.kind or "null",
                message.sender or "null",
                message.alias or "null",
                message.subject or "null",
                message.text,
            )
        )
        for message in state.mailbox_of(account.user).inbox
        if int(message.message_id) > after
    ]
    if state.settings.dialect.order == "descending":
        records.reverse()
    return state.settings.dialect.records_response(records)


def _get_msg_updates(state: GatewayState, exchange: Exchange) -> str:
    """Section 4.5: each record is returned once."""
    account = _log_in(state, exchange.params)
    if not account.updates:
        raise Refusal(7)
    now, settings = exchange.now, state.settings
    mailbox = state.mailbox_of(account.user)
    records = []
    while mailbox.reports and mailbox.reports[0][0] <= now:
        final_at, recipient_id, generation, message, recipient = heapq.heappop(mailbox.reports)
        if message.cancelled or message.generation != generation:
            continue
        at = final_at if recipient.word == "delivered" else None
        if settings.dialect.update_time == "minutes":
            time = minutes(at, settings.zone)
        else:
            time = "-1" if at is None else settings.dialect.smpp(at, settings.zone)
        records.append(f"0\t{message.message_id}\t{recipient_id}\t{recipient.msisdn}\t{recipient.word}\t{time}")
    records.extend(
        f"1\t{received.message_id}\t{received.sender or 'null'}\t{_received_minute(state, received)}"
        f"\t{received.prefix or 'null'}\t{received.kind}\t{received.text}"
        for received in mailbox.inbox[mailbox.collected :]
    )
    mailbox.collected = len(mailbox.inbox)
    if settings.dialect.order == "descending":
        records.reverse()
    return settings.dialect.records_response(records)


# ---------------------------------------------------------------- shared by the endpoints


def _message(state: GatewayState, account: Account, params: Mapping[str, bytes], name: str) -> Message:
    message = state.messages.get(int(parse_id(params, name)))
    if message is None or message.user != account.user:
        raise Refusal(32)
    return message


def _scheduled_message(state: GatewayState, exchange: Exchange) -> Message:
    message = _message(state, _log_in(state, exchange.params), exchange.params, "msgno")
    if message.cancelled or _is_archived(state, message, exchange.now):
        raise Refusal(32)
    return message


def _is_archived(state: GatewayState, message: Message, now: float) -> bool:
    limit = state.settings.archive_after_s
    start = max(message.accepted_at, message.scheduled_at or 0.0)
    return message.archived or (limit is not None and now >= start + limit)


def _schedule_row(state: GatewayState, message: Message) -> str:
    if message.scheduled_at is None:
        return f"{message.message_id}\t"
    return f"{message.message_id}\t{state.settings.dialect.smpp(message.scheduled_at, state.settings.zone)}"


def _received_minute(state: GatewayState, message: ReceivedMessage) -> str:
    return minutes(None if message.received_at is None else message.received_at.timestamp(), state.settings.zone)


#: The handler of each endpoint.
HANDLERS: Final[Mapping[str, Callable[[GatewayState, Exchange], str]]] = {
    "sendSms": _send_sms,
    "getSmsResult": _get_sms_result,
    "sendlater/get": _sendlater_get,
    "sendlater/getall": _sendlater_getall,
    "sendlater/update": _sendlater_update,
    "sendlater/cancel": _sendlater_cancel,
    "getMsgReceived": _get_msg_received,
    "getMsgUpdates": _get_msg_updates,
}
