"""Plan a campaign: read its source, check and render every row, record the messages, compare with what was sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from prefect_mymsp.campaign.options import Limits
from prefect_mymsp.campaign.suppression import SuppressedNumbers
from prefect_mymsp.campaign.tally import DistinctTexts, SourceTally
from prefect_mymsp.errors import ChangedTextError, InputError, RepeatError, TemplateError, first_few
from prefect_mymsp.journal import SourceCounts

if TYPE_CHECKING:
    from prefect_mymsp.campaign.plan import Plan
    from prefect_mymsp.journal import EarlierMessage, Recording
    from prefect_mymsp.recipients import Source
    from prefect_mymsp.templates import Template

#: Rejected rows that the journal keeps for later reports. In a file with more, the column is wrong, not the rows.
_KEPT_REJECTED_ROWS = 10_000
_SHOWN_ROWS = 5


def plan_campaign(
    source: Source | None,
    template: Template,
    recording: Recording | None = None,
    *,
    groups: Sequence[str] = (),
    suppressed: SuppressedNumbers | None = None,
    limits: Limits | None = None,
    allow_changed_text: bool = False,
    repeats_since: datetime | None = None,
    raise_conflict: bool = True,
) -> Plan:
    """Read a source once, check and render every row, and record the messages if a recording is given.

    A recording of an existing campaign continues it: messages that the source still holds stay, new ones are added, and
    messages that the source no longer holds, or that are suppressed now, are dropped unless they have been sent.

    Args:
        source: Where the rows come from; None to send to groups only.
        template: The message.
        recording: Where to record the messages; None to record nothing.
        groups: Recipient groups of the gateway that get the message too.
        suppressed: Suppressed numbers. The members of a group are unknown here, so they are not suppressed.
        limits: Messages with more segments than these allow are listed in the plan;
            :func:`~prefect_mymsp.campaign.limits.check_limits` refuses them.
        allow_changed_text: Whether recipients who got a text of this campaign may get its changed text too.
        repeats_since: Refuse messages that another campaign of the account has sent since then, aware; None to
            allow them.
        raise_conflict: Whether to raise a conflict; otherwise the plan holds it.

    Raises:
        TemplateError: The template needs a column that the source has not, or has placeholders and goes to groups.
        SourceError: The source cannot be read to its end.
        ChangedTextError: Recipients would get a second, different text.
        RepeatError: Recipients would get a text again that another campaign has sent them.
        JournalError: The journal cannot be written.
    """
    if groups and template.placeholders:
        raise TemplateError(
            f"{{{template.placeholders[0]}}}: a recipient group gets one text, without placeholders. Send to groups "
            "and to rows as two campaigns, or remove the placeholders."
        )
    tally = SourceTally(suppressed or SuppressedNumbers({}), (limits or Limits()).max_segments)
    if source is not None:
        template.check_columns(source.columns, source_label=source.label)
        for chunk in source.chunks():
            texts = tally.add(chunk.rejected_rows, DistinctTexts.of(template.render_chunk(chunk)))
            if recording is not None:
                recording.add(texts.planned())
    if groups:
        text = template.render({})
        counted = tally.add_groups(groups, text)
        if recording is not None:
            recording.add_groups(list(groups), text, encoding=counted.encoding, segments=counted.segments)
    label = source.label if source is not None else f"groups {first_few(groups, 3)}"
    plan = tally.plan(label, "" if source is None else source.detected_format)
    if recording is None:
        return plan
    _record_source(plan, recording)
    plan, changed = _compare_with_campaign(plan, tally, recording)
    conflict = _find_conflict(
        plan, recording, changed, allow_changed_text=allow_changed_text, repeats_since=repeats_since
    )
    if conflict is None:
        return plan
    if raise_conflict:
        raise conflict
    return dataclasses.replace(plan, conflict=str(conflict))


def _record_source(plan: Plan, recording: Recording) -> None:
    kept = plan.rejected_rows.slice(0, _KEPT_REJECTED_ROWS).to_pydict()
    counts = SourceCounts(plan.rows, plan.rejected_rows.num_rows, plan.duplicates.num_rows, plan.suppressed.num_rows)
    recording.record_source(counts, list(zip(kept["row"], kept["column"], kept["reason"], strict=True)))


def _compare_with_campaign(plan: Plan, tally: SourceTally, recording: Recording) -> tuple[Plan, list[EarlierMessage]]:
    """Drop planned messages that the source no longer holds, and find messages that were sent with another text.

    Returns:
        The plan with its counts, and the messages that were sent with another text.
    """
    if not recording.messages_before:
        return dataclasses.replace(plan, new=recording.added()), []
    holds = tally.membership()
    planned = [*recording.planned_before(), *recording.planned_before(groups=True)]
    dropped = [message_id for message_id, message in planned if not holds(message)]
    recording.drop_planned(dropped)
    differing = [*recording.find_changed_texts(), *recording.find_changed_texts(groups=True)]
    changed = [message for message in differing if not holds(message)]
    counted = dataclasses.replace(
        plan,
        recorded_before=recording.messages_before,
        new=recording.added() + len(dropped),
        dropped=len(dropped),
        changed=len(changed),
        still_planned=len(planned) - len(dropped),
    )
    return counted, changed


def _find_conflict(
    plan: Plan,
    recording: Recording,
    changed: Sequence[EarlierMessage],
    *,
    allow_changed_text: bool,
    repeats_since: datetime | None,
) -> InputError | None:
    """Return the conflict that a person must allow before the campaign is sent, if there is one."""
    if changed and not allow_changed_text:
        numbers = sorted({message.row for message in changed})
        more = ", …" if len(changed) > _SHOWN_ROWS else ""
        return ChangedTextError(
            f"Campaign {recording.campaign.name!r} has sent {len(changed)} recipients another text than the one that "
            f"{plan.source} holds for them now (rows {', '.join(map(str, numbers[:_SHOWN_ROWS]))}{more}). Nothing was "
            "sent. Restore the text to send only what is missing, or set allow_changed_text to send the new text too.",
            messages=len(changed),
        )
    if repeats_since is not None and (repeats := recording.find_repeats(repeats_since)):
        name, count = max(repeats, key=lambda repeat: repeat[1])
        return RepeatError(
            f"{count} of these messages were sent today by campaign {name!r}. Nothing was sent. Use that name to send "
            "only what is missing, or set allow_repeat_today to send them again.",
            messages=sum(count for _, count in repeats),
        )
    return None
