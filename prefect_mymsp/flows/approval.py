"""A person approves a campaign before its first message: the run pauses, with what would be sent as its form."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import httpx
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput, filter_flow_run_input, keyset_from_paused_state
from prefect.states import Paused
from pydantic import Field, ValidationError

from prefect_mymsp.errors import NotApprovedError

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Plan, TimeWindow

#: Seconds between two looks whether somebody has answered.
_POLL_S = 5


class Answer(StrEnum):
    """What a person says to a campaign."""

    SEND = "send"
    DO_NOT_SEND = "do-not-send"


class CampaignApproval(RunInput):
    """The form of a paused campaign."""

    answer: Answer = Field(description="Whether the campaign is to be sent as it is described above.")


@dataclass(frozen=True)
class Proposal:
    """What a person is asked to approve.

    Attributes:
        campaign: The campaign's name.
        message: Its message, with placeholders.
        sender: The sender; None for the account's own.
        send_at: When it is delivered, aware; None for at once.
        window: The hours in which it is delivered; None for any.
        groups: Recipient groups that get it too.
        plan: What its source holds.
    """

    campaign: str
    message: str
    sender: str | None
    send_at: datetime | None
    window: TimeWindow | None
    groups: tuple[str, ...]
    plan: Plan

    def key(self) -> str:
        """The same for the same messages to the same people."""
        left_out = ",".join(self.plan.suppressed.column("msisdn").to_pylist())
        return hashlib.blake2b(f"{self.plan.digest} {left_out}".encode(), digest_size=8).hexdigest()

    def described(self) -> str:
        """The campaign as markdown, for the form; numbers masked, and of the texts the message alone."""
        plan = self.plan
        rejected_rows = plan.rejected_rows.column("row").to_pylist()
        when = "at once" if self.send_at is None else f"{self.send_at:%Y-%m-%d %H:%M %Z}"
        pairs = [
            ("source", plan.source),
            *([("read as", plan.detected_format)] if plan.detected_format else []),
            ("rows", f"{plan.rows:,}"),
            (
                "cannot be sent",
                f"{len(rejected_rows):,}" + (f" (rows {_first(rejected_rows)})" if rejected_rows else ""),
            ),
            ("duplicates", f"{plan.duplicates.num_rows:,}"),
            ("suppressed", f"{plan.suppressed.num_rows:,}"),
            *([("recipient groups", ", ".join(self.groups))] if self.groups else []),
            ("**to be sent now**", f"**{plan.due:,} messages**"),
            ("of the campaign's messages", f"{plan.messages:,}, {plan.segments:,} SMS"),
            ("the longest takes", f"{plan.longest} SMS"),
            ("sender", self.sender or "the account's own"),
            ("delivered", when if self.window is None else f"{when}, from {self.window}"),
        ]
        if plan.ucs2:
            pairs.append(("in UCS-2", f"{plan.ucs2:,} messages, because of {' '.join(plan.non_gsm_characters)}"))
        if plan.samples:
            first = [f"{sample.recipient} (row {sample.row})" for sample in plan.samples]
            pairs.append(("for instance to", ", ".join(first)))
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", self.message)), default=0))
        rows = "\n".join(f"| {label} | {_cell(value)} |" for label, value in pairs)
        return (
            f"### Campaign {_cell(self.campaign)} waits for your approval\n\n| | |\n| --- | --- |\n{rows}\n\n"
            f"The message:\n\n{fence}text\n{self.message}\n{fence}\n"
        )


def ask(proposal: Proposal, timeout_s: float) -> None:
    """Pause the flow run until a person approves; returns if one does.

    A run that Prefect tries again does not ask again for what was answered before: the answer is stored with the run.

    Args:
        proposal: What to approve.
        timeout_s: Seconds to wait at most.

    Raises:
        NotApprovedError: A person refused, nobody answered in time, or the run cannot be paused.
    """
    name = proposal.campaign
    try:
        given = _answered(proposal) or _asked(proposal, timeout_s)
    except (FlowPauseTimeout, ValidationError):
        # Invalid is what was not given: the run was resumed past its form.
        raise NotApprovedError(
            f"Nobody approved campaign {name!r} in time. Nothing was sent; start it again to be asked again."
        ) from None
    except (RuntimeError, httpx.HTTPError) as error:
        raise NotApprovedError(
            f"Campaign {name!r} needs approval, and the run cannot be paused for it ({type(error).__name__}). Nothing "
            "was sent; see that the run is not being cancelled, and start it again."
        ) from None
    if given.answer is not Answer.SEND:
        raise NotApprovedError(f"Campaign {name!r} was refused. Nothing was sent; start it again to be asked again.")


def _asked(proposal: Proposal, timeout_s: float) -> CampaignApproval:
    form = CampaignApproval.with_initial_data(description=proposal.described())
    key = f"{proposal.key()}-{uuid.uuid4().hex[:8]}"  # a form is stored under it, once
    return pause_flow_run(wait_for_input=form, timeout=math.ceil(timeout_s), poll_interval=_POLL_S, key=key)


def _answered(proposal: Proposal) -> CampaignApproval | None:
    """What was answered to the same proposal before, in this run."""
    prefix = keyset_from_paused_state(Paused(pause_key=proposal.key()))["response"].removesuffix("-response")
    found: Any = filter_flow_run_input(key_prefix=prefix, limit=100)  # in a synchronous flow a list
    for stored in found:
        if stored.key.endswith("-response"):
            return CampaignApproval(**stored.decoded_value)
    return None


def _first(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
