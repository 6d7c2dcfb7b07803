"""A person approves a campaign before its first message: the run pauses, and its form describes the campaign."""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from typing import TYPE_CHECKING, Any, Literal

import httpx
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput, filter_flow_run_input, keyset_from_paused_state
from prefect.states import Paused
from pydantic import Field, ValidationError

from prefect_mymsp.errors import NotApprovedError
from prefect_mymsp.flows.campaign_request import CampaignRequest

if TYPE_CHECKING:
    from prefect_mymsp.campaign import Plan

#: Seconds between two checks for an approval.
_POLL_INTERVAL_S = 5


class CampaignApproval(RunInput):
    """The form of a paused campaign."""

    answer: Literal["send", "do-not-send"] = Field(description="Whether to send the campaign as described above.")


def request_approval(request: CampaignRequest, plan: Plan, timeout_s: float) -> None:
    """Pause the flow run until a person approves the campaign.

    When Prefect retries the run, no second approval of the same campaign is needed: the first is stored with the run.

    Args:
        request: The campaign.
        plan: The checked recipients and their messages.
        timeout_s: Seconds to wait.

    Raises:
        NotApprovedError: A person rejected the campaign, it was not approved in time, or the run cannot be paused.
    """
    name, key = request.campaign, approval_key(plan)
    try:
        approval = _stored_answer(key) or _pause(key, describe(request, plan), timeout_s)
    except (FlowPauseTimeout, ValidationError):
        # The form is invalid when the run was resumed past it.
        raise NotApprovedError(
            f"Campaign {name!r} was not approved in time. Nothing was sent. Start it again to request a new approval."
        ) from None
    except (RuntimeError, httpx.HTTPError) as error:
        raise NotApprovedError(
            f"Campaign {name!r} needs approval, but the run cannot be paused ({type(error).__name__}). Nothing "
            "was sent. Check that the run is not being cancelled, and start it again."
        ) from None
    if approval.answer != "send":
        raise NotApprovedError(
            f"Campaign {name!r} was rejected. Nothing was sent. Start it again to request a new approval."
        )


def approval_key(plan: Plan) -> str:
    """A key that is the same for the same messages to the same recipients."""
    suppressed = ",".join(plan.suppressed.column("msisdn").to_pylist())
    return hashlib.blake2b(f"{plan.digest} {suppressed}".encode(), digest_size=8).hexdigest()


def describe(request: CampaignRequest, plan: Plan) -> str:
    """A campaign as markdown for the form. Numbers are masked, and of the texts only the message is shown."""
    rejected_rows = plan.rejected_rows.column("row").to_pylist()
    when = "at once" if request.send_at is None else f"{request.send_at:%Y-%m-%d %H:%M %Z}"
    window = request.send_options.send_window
    pairs = [
        ("recipients", plan.source),
        *([("detected format", plan.detected_format)] if plan.detected_format else []),
        ("rows", f"{plan.rows:,}"),
        ("rejected rows", f"{len(rejected_rows):,}" + (f" (rows {_first(rejected_rows)})" if rejected_rows else "")),
        ("duplicates", f"{plan.duplicates.num_rows:,}"),
        ("suppressed", f"{plan.suppressed.num_rows:,}"),
        *([("recipient groups", ", ".join(request.groups))] if request.groups else []),
        ("**to be sent now**", f"**{plan.due:,} messages**"),
        ("whole campaign", f"{plan.messages:,} messages, {plan.segments:,} segments"),
        ("longest message", f"{plan.longest} segments"),
        ("sender", request.sender or "the account's own"),
        ("sent", when if window is None else f"{when}, within {window}"),
    ]
    if plan.ucs2:
        pairs.append(("in UCS-2", f"{plan.ucs2:,} messages, because of {' '.join(plan.non_gsm_characters)}"))
    if plan.samples:
        pairs.append(("examples", ", ".join(f"{sample.recipient} (row {sample.row})" for sample in plan.samples)))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", request.message)), default=0))
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in pairs)
    return (
        f"### Campaign {_cell(request.campaign)} waits for approval\n\n| | |\n| --- | --- |\n{rows}\n\n"
        f"The message:\n\n{fence}text\n{request.message}\n{fence}\n"
    )


def _pause(key: str, description: str, timeout_s: float) -> CampaignApproval:
    form = CampaignApproval.with_initial_data(description=description)
    return pause_flow_run(
        wait_for_input=form,
        timeout=math.ceil(timeout_s),
        poll_interval=_POLL_INTERVAL_S,
        key=f"{key}-{uuid.uuid4().hex[:8]}",  # Prefect stores one form under a key
    )


def _stored_answer(key: str) -> CampaignApproval | None:
    """The decision about the same campaign that is stored with this run, if there is one."""
    prefix = keyset_from_paused_state(Paused(pause_key=key))["response"].removesuffix("-response")
    stored: Any = filter_flow_run_input(key_prefix=prefix, limit=100)  # in a synchronous flow a list
    for run_input in stored:
        if run_input.key.endswith("-response"):
            return CampaignApproval(**run_input.decoded_value)
    return None


def _first(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (", …" if len(rows) > 10 else "")


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
