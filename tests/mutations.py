"""Flip each rule of the engine and see which test notices.

    python tests/mutations.py [--only WORD]

Each mutation is made in a copy of the package, and the named test is run against it. A mutation that no test notices
is a rule that nothing holds: the command then fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MATCHING = "tests/unit/campaign/test_matching.py"
ENGINE = "tests/integration/campaign/test_engine.py"
TRACKING = "tests/integration/campaign/test_tracking_pass.py"
UPDATES = "tests/integration/campaign/test_update_reader.py"
INBOX = "tests/integration/campaign/test_inbox_reader.py"


@dataclass(frozen=True)
class Mutation:
    """A rule, how it is broken, and the test that notices.

    Attributes:
        rule: The rule, as a sentence.
        file: The module that holds it, below the package.
        old: What stands there.
        new: What breaks it.
        test: The test that fails then.
    """

    rule: str
    file: str
    old: str
    new: str
    test: str


OPTIONS = "tests/acceptance/test_campaign_options.py"

MUTATIONS = [
    Mutation(
        "what another run gives back is sent",
        "campaign/sender.py",
        "        return await self._thread(self._journal.claims.has_planned, campaign)",
        "        return False",
        f"{ENGINE} -k test_what_another_run_gives_back",
    ),
    Mutation(
        "outside its hours nothing is sent at once",
        "campaign/delivery_schedule.py",
        "        return window.contains(now) and window.contains(now + timedelta(seconds=self.max_request_s))",
        "        return True",
        f"{ENGINE} -k test_outside_its_hours",
    ),
    Mutation(
        "what a request may take is reckoned before the hours end",
        "campaign/delivery_schedule.py",
        "        return window.contains(now) and window.contains(now + timedelta(seconds=self.max_request_s))",
        "        return window.contains(now) and window.contains(now)",
        f"{ENGINE} -k test_shortly_before_its_hours_end",
    ),
    Mutation(
        "what is scheduled to an opening can still be looked up",
        "campaign/delivery_schedule.py",
        "        return ceil_minute(now + timedelta(seconds=self.lookup_margin_s))",
        "        return ceil_minute(now)",
        f"{ENGINE} -k test_hours_that_begin_at_once",
    ),
    Mutation(
        "what waits for its turn is not claimed",
        "campaign/sender.py",
        "                await self._pause((turn - self._clock.now()).total_seconds())",
        "                break",
        f"{ENGINE} -k test_at_a_rate_requests_leave",
    ),
    Mutation(
        "what is claimed ahead follows the pace of requests",
        "campaign/sender.py",
        "pace = (self._begun - before) /",
        "pace = len(claimed) /",
        f"{ENGINE} -k test_little_is_claimed_ahead",
    ),
    Mutation(
        "when all is claimed the journal is left in peace",
        "campaign/sender.py",
        "        while (self._in_flight or self._ready) and self._stopped is None:",
        "        while self._in_flight and not self._ready:",
        f"{ENGINE} -k test_when_all_is_claimed",
    ),
    Mutation(
        "waiting for admission is not the pace of requests",
        "campaign/sender.py",
        "                before = self._begun\n                requests = await self._admitted()",
        "                requests = await self._admitted()\n                before = self._begun",
        f"{ENGINE} -k test_a_gate_that_takes_its_time",
    ),
    Mutation(
        "what was not accepted may have been put in doubt meanwhile",
        "journal/claims.py",
        'sa.bindparam("settled_id"), (batch.c.state == SENDING) | (batch.c.state == IN_DOUBT))',
        'sa.bindparam("settled_id"), batch.c.state == SENDING)',
        "tests/integration/journal/test_journal_settling.py -k test_the_run_that_sent_a_request",
    ),
    Mutation(
        "what was scheduled of all or nothing is told of when somebody ends the run",
        "flows/send_campaign.py",
        "            if waiting := len(journal.schedule.batches(campaign, datetime.now(UTC))):",
        "            if waiting := 0:",
        "tests/acceptance/test_doubt.py -k all_or_nothing_that",
    ),
    Mutation(
        "what came of requests is kept when a claim is refused",
        "campaign/sender.py",
        "                self._outcomes = outcomes + self._outcomes  # the last try is made when all is over",
        "                pass",
        f"{ENGINE} -k test_a_cancelled_campaign_knows",
    ),
    Mutation(
        "the gate is asked before messages are claimed",
        "campaign/sender.py",
        "        if gate is not None and self._stopped is None:",
        "        if gate is not None and self._stopped is None and False:",
        f"{ENGINE} -k test_the_gate_is_asked",
    ),
    Mutation(
        "who is suppressed is left out",
        "campaign/tally.py",
        "        left_out = reasons >= 0",
        "        left_out = reasons >= 100",
        f"{OPTIONS} -k suppressed",
    ),
    Mutation(
        "who opts out before a campaign is continued gets nothing more of it",
        "campaign/planning.py",
        "    recording.drop_planned(dropped)",
        "    recording.drop_planned([])",
        f"{OPTIONS} -k test_who_opts_out_before",
    ),
    Mutation(
        "beyond a limit nothing is recorded",
        "flows/steps.py",
        "        check_limits(request.limits, plan)",
        "        pass",
        f"{OPTIONS} -k test_beyond_a_limit",
    ),
    Mutation(
        "what a person has not approved is not sent",
        "flows/approval.py",
        '    if approval.answer != "send":',
        "    if False:",
        f"{OPTIONS} -k test_a_person_refuses",
    ),
    Mutation(
        "what is sent is what was approved",
        "campaign/safeguards.py",
        "approved.digest != plan.digest",
        "approved.digest == 0",
        f"{OPTIONS} -k test_what_is_sent",
    ),
    Mutation(
        "who was left out when a campaign was approved stays left out",
        "flows/steps.py",
        "        suppressed |= approved.suppressed",
        "        pass",
        f"{OPTIONS} -k test_what_is_sent",
    ),
    Mutation(
        "a run that begins hours late sends nothing",
        "campaign/safeguards.py",
        "    if late_minutes <= max_late_minutes:",
        "    if late_minutes <= 1e9:",
        f"{OPTIONS} -k late",
    ),
    Mutation(
        "a read timeout is doubt, not a failure to reach the gateway",
        "client.py",
        "        if isinstance(error, (httpx.TimeoutException, TimeoutError)):\n"
        "            return NoAnswerError(\n"
        '                f"{call.endpoint}: no whole answer within {self.timeout_s:g} s.", reason="timeout", raw=raw\n'
        "            )\n",
        "        if isinstance(error, (httpx.TimeoutException, TimeoutError)):\n"
        '            return UnreachableError("timeout")\n',
        f"{ENGINE} -k test_a_doubtful_answer_is_never_followed_by_a_second_request",
    ),
    Mutation(
        "a lost connection is doubt",
        "client.py",
        "        return NoAnswerError(\n"
        '            f"{call.endpoint}: the connection was lost before the answer had come '
        '({type(error).__name__}).",\n'
        '            reason="connection-lost",\n            raw=raw,\n        )\n',
        '        return UnreachableError("lost")\n',
        f"{ENGINE} -k test_a_doubtful_answer_is_never_followed_by_a_second_request",
    ),
    Mutation(
        "a 5xx is doubt, whatever its body says",
        "client.py",
        "            if 200 <= status < 300:",
        "            if 200 <= status < 300 or status >= 500:",
        "tests/unit/test_client.py -k test_in_doubt_is_said_and_never_sent_again",
    ),
    Mutation(
        "doubt is recorded as doubt, not as unsent",
        "campaign/sender.py",
        "            self._note(batch, IN_DOUBT, reason=error.reason)\n",
        "            self._note(batch, RELEASED, reason=error.reason)\n",
        f"{ENGINE} -k test_a_doubtful_answer_is_never_followed_by_a_second_request",
    ),
    Mutation(
        "the intent is in the journal before the request leaves",
        "campaign/sender.py",
        "        campaign = self._run.campaign\n        try:\n            message_id = await self._client.send(",
        "        campaign = self._run.campaign\n        with self._journal._database.write() as connection:\n"
        "            connection.exec_driver_sql('DROP TRIGGER IF EXISTS batch_transition')\n"
        "            connection.exec_driver_sql(\"UPDATE batch SET state = 'planned', run_id = NULL, \"\n"
        '                "claimed_at = NULL WHERE id = " + str(batch.id))\n'
        "        try:\n            message_id = await self._client.send(",
        f"{ENGINE} -k test_the_intent_is_on_disk_before_the_request_leaves",
    ),
    Mutation(
        "a claim is a claim only while the lease lasts",
        "journal/claims.py",
        "schema.batch.c.run_id.in_(expired)",
        "schema.batch.c.run_id > 0",
        "tests/integration/journal/test_journal_doubt.py -k test_only_claims_with_an_ended_lease_are_put_in_doubt",
    ),
    Mutation(
        "a dead run's claims are in doubt",
        "journal/claims.py",
        'state=IN_DOUBT, reason="interrupted", settled_at=now, doubted_at=now',
        "state=REFUSED, code=0, settled_at=now",
        "tests/integration/journal/test_journal_doubt.py -k test_only_claims_with_an_ended_lease_are_put_in_doubt",
    ),
    Mutation(
        "refusals of the account stop the campaign and leave the rest to be continued",
        "campaign/send_decisions.py",
        'if error.scope in {"account", "campaign"}:',
        'if error.scope == "campaign":',
        f"{ENGINE} -k test_a_refusal_of_the_account",
    ),
    Mutation(
        "code 28 is halved until the bad number stands alone",
        "campaign/send_decisions.py",
        'batch_size > 1 and error.scope in {"number", "unknown"}',
        'batch_size > 1 and error.scope == "unknown"',
        f"{ENGINE} -k test_a_bad_number_is_found_by_halving",
    ),
    Mutation(
        "doubt in a row opens the circuit",
        "campaign/sender.py",
        "            if self._doubts >= self._options.max_consecutive_failures:",
        "            if self._doubts >= 1_000_000:",
        f"{ENGINE} -k test_doubt_in_a_row_opens_the_circuit",
    ),
    Mutation(
        "an id is believed when its first result names our recipients",
        "campaign/evidence.py",
        "if (not request.group and listed != recipients) or sent_before(",
        "if sent_before(",
        f"{ENGINE} -k test_an_id_that_is_somebody_elses",
    ),
    Mutation(
        "absence is believed after three lists only",
        "campaign/matching.py",
        "SendAgain(request.batch_id) if lists >= REQUIRED_LISTS else",
        "SendAgain(request.batch_id) if True else",
        f"{MATCHING} -k test_decision",
    ),
    Mutation(
        "absence is believed only when the response can no longer arrive",
        "campaign/matching.py",
        "if request.settled_at is None or facts.listing.requested_at - request.settled_at < facts.late_arrival:",
        "if request.settled_at is None:",
        f"{MATCHING} -k test_decision",
    ),
    Mutation(
        "lists that lack only their end prove no absence",
        "campaign/matching.py",
        "REQUIRED_LISTS = 3",
        "REQUIRED_LISTS = 1",
        f"{ENGINE} -k test_lists_that_lack_only_their_end",
    ),
    Mutation(
        "a list that lacks what is known to wait is not whole",
        "campaign/matching.py",
        "        if not facts.listing_is_whole:",
        "        if False:",
        f"{ENGINE} -k test_a_list_cut_short_is_not_taken_for_absence",
    ),
    Mutation(
        "several texts to the same people for the same minute are not told apart by guessing",
        "campaign/matching.py",
        "if arrived and len(doubtful) == 1 and len({request.text_id for request in (*doubtful, *released)}) == 1:",
        "if arrived and doubtful:",
        f"{ENGINE} -k test_several_texts_to_one_person",
    ),
    Mutation(
        "messages of other systems are not touched",
        "campaign/matching.py",
        "self._unknown.get(pair, ())",
        "(message_id for ids in self._unknown.values() for message_id in ids)",
        f"{ENGINE} -k test_messages_of_other_systems_are_never_touched",
    ),
    Mutation(
        "what arrives after it was sent again is cancelled",
        "campaign/matching.py",
        "        if arrived and (doubtful or released):",
        "        if arrived and doubtful:",
        f"{ENGINE} -k test_what_arrives_after_it_was_found_absent",
    ),
    Mutation(
        "when time runs out nothing is sent again",
        "campaign/matching.py",
        "    return send_at - now > cutoff",
        "    return True",
        f"{ENGINE} -k test_when_time_runs_out",
    ),
    Mutation(
        "the time of a list alone rejects no id",
        "campaign/reconciler.py",
        "            belongs = await self._belongs(request)",
        "            belongs = False",
        f"{ENGINE} -k test_what_somebody_moved",
    ),
    Mutation(
        "the time of a list alone proves no absence",
        "campaign/matching.py",
        "        if not facts.times_verified and any(",
        "        if False and any(",
        f"{ENGINE} -k test_times_that_are_read_wrongly",
    ),
    Mutation(
        "an id that stays on the list without a result proves no absence",
        "campaign/reconciler.py",
        " and message_id not in self._without_result",
        "",
        f"{ENGINE} -k test_a_gateway_that_knows_no_result",
    ),
    Mutation(
        "a doubtful request to a recipient group is not proven absent",
        "campaign/matching.py",
        "        if any(request.to_group for request in requests):",
        "        if False:",
        "tests/integration/test_groups.py -k absence_is_proven",
    ),
    Mutation(
        "a message that may be a recipient group's is matched with nothing else",
        "campaign/matching.py",
        "if arrived and any(request.send_at == pair.minute for request in self._group_requests):",
        "if False:",
        "tests/integration/test_groups.py -k beside_a_doubtful_group",
    ),
    Mutation(
        "a request that is being rescheduled may be listed for either time",
        "campaign/matching.py",
        "minute in (request.send_at, request.rescheduled_to)",
        "minute == request.send_at",
        "tests/integration/campaign/test_reschedule.py -k dies_on_the_way",
    ),
    Mutation(
        "in the hour that occurs twice nothing is proven absent",
        "campaign/matching.py",
        "        elif doubtful and is_repeated_hour(doubtful[0].send_at, self._facts.zone):",
        "        elif False:",
        f"{ENGINE} -k comes_twice",
    ),
    Mutation(
        "a list that is refused is not waited for until the delivery time",
        "campaign/matching.py",
        "            return self._refusals < MAX_FAILED_LISTS",
        "            return True",
        f"{ENGINE} -k test_doubt_that_may_not_be_looked_up",
    ),
    Mutation(
        "an update is kept before it is parsed",
        "campaign/updates.py",
        "            response_id = await self._thread(self._journal.raw_responses.add, self._account, raw)\n",
        "            self._client.parse_updates(raw)\n"
        "            response_id = await self._thread(self._journal.raw_responses.add, self._account, raw)\n",
        f"{UPDATES} -k test_a_response_is_stored_before_it_is_parsed",
    ),
    Mutation(
        "an update is done with when all it points to was looked at",
        "campaign/updates.py",
        "        if await self._look_up(raw, result):",
        "        if await self._look_up(raw, result) or True:",
        f"{UPDATES} -k test_a_failed_lookup",
    ),
    Mutation(
        "an id from an update is taken only when its result names the people of one request in doubt",
        "campaign/evidence.py",
        "candidate.state == IN_DOUBT and candidate.msisdns == recipients",
        "candidate.state == IN_DOUBT",
        f"{UPDATES} -k test_updates_about_foreign_messages",
    ),
    Mutation(
        "the inbox is believed when two answers say the same",
        "campaign/inbox.py",
        "    return repeated == set(earlier.messages) and set(earlier.unparsed) <= set(later.unparsed)",
        "    return True",
        f"{INBOX} -k test_no_cut_loses_or_shortens_a_message",
    ),
    Mutation(
        "what is too old is not asked about any more",
        "journal/deliveries.py",
        "            where.append(batch_due_at >= since)",
        "            where.append(batch_due_at == batch_due_at)",
        f"{TRACKING} -k test_messages_past_the_tracking_period_are_not_polled",
    ),
    Mutation(
        "a completion is told once",
        "campaign/progress.py",
        "        return progress.complete and reported != str(progress.counts.messages)",
        "        return progress.complete",
        f"{TRACKING} -k test_completion_is_reported_once",
    ),
    Mutation(
        "what turns up of a cancelled campaign is taken back",
        "campaign/track.py",
        "            if summary.cancelled_at is not None:",
        "            if False:",
        f"{TRACKING} -k test_a_pass_cancels_late_arrivals",
    ),
    Mutation(
        "in the night the clocks go back a time is the one after the message left us",
        "times.py",
        "    return second if second >= earliest else value",
        "    return value",
        f"{TRACKING} -k test_half_past_two",
    ),
    Mutation(
        "what a run has in flight when its campaign is cancelled is taken back too",
        "campaign/cancel.py",
        "settled = not counts.sending and not (in_doubt and reconciler.pending)",
        "settled = not (in_doubt and reconciler.pending)",
        "tests/integration/campaign/test_cancel.py",
    ),
    Mutation(
        "doubt about a cancelled campaign is looked up",
        "campaign/cancel.py",
        "        if in_doubt:\n",
        "        if False:\n",
        f"{ENGINE} -k test_doubt_about_a_cancelled_campaign",
    ),
    Mutation(
        "a cancelled campaign is claimed by nobody",
        "journal/claims.py",
        'raise CampaignCancelledError(f"Campaign {run.campaign.name!r} was cancelled.")',
        "pass",
        "tests/integration/campaign/test_cancel.py",
    ),
    Mutation(
        "nobody gets one text twice in a campaign, on SQLite",
        "journal/recording.py",
        "execute_many(self._connection, statement.on_conflict_do_nothing(), values)",
        "execute_many(self._connection, statement, values)",
        "tests/integration/journal/test_journal_recording.py -k test_a_row_that_occurs_twice",
    ),
    Mutation(
        "nobody gets one text twice in a campaign, on PostgreSQL",
        "journal/recording.py",
        'self._connection.execute(statement.on_conflict_do_nothing(), {"document": json.dumps(values)})',
        'self._connection.execute(statement, {"document": json.dumps(values)})',
        "tests/integration/journal/test_journal_recording.py -k test_a_row_that_occurs_twice",
    ),
    Mutation(
        "errors hand out no context that they hide",
        "errors.py",
        "None if self.__suppress_context__ else",
        "None if False else",
        "tests/unit/test_errors.py -k test_what_an_error_was_raised_from",
    ),
    Mutation(
        "nobody begins to send for a time that has changed",
        "journal/campaigns.py",
        "if rows and rows[0][0] != campaign.send_at:",
        "if False:",
        "tests/integration/journal/test_journal_schedule.py -k planned_message",
    ),
    Mutation(
        "only a message that waits for the time we gave it is moved",
        "campaign/reschedule.py",
        "if minute == batch.send_at and batch.rescheduled_to is not None:",
        "if batch.rescheduled_to is not None:",
        "tests/integration/campaign/test_reschedule.py -k foreign_messages",
    ),
    Mutation(
        "the inbox is read on from the highest id",
        "journal/inbox.py",
        "value=str(max(ids))",
        "value=str(ids[-1])",
        "tests/integration/journal/test_journal_inbox.py -k cursor",
    ),
    Mutation(
        "a forgotten text is not sent empty by the next campaign",
        "journal/retention.py",
        'values(body="", digest=random)',
        'values(body="")',
        "tests/integration/journal/test_journal_retention.py -k sent_empty",
    ),
    Mutation(
        "what is still to be sent is not forgotten",
        "journal/retention.py",
        "if unsent or summary.active_at >= before:",
        "if summary.active_at >= before:",
        "tests/integration/journal/test_journal_retention.py -k still_to_be_sent",
    ),
    Mutation(
        "a claimed message is deleted only after its campaign was forgotten",
        "journal/schema.py",
        "<> '{PLANNED}' AND {_NOT_PURGED}",
        "<> '{PLANNED}' AND NOT {_NOT_PURGED}",
        "tests/integration/journal/test_journal_retention.py -k triggers",
    ),
    Mutation(
        "a connection with bytes left over is not used again",
        "transport.py",
        "        if self._state.trailing_data[0]:",
        "        if False:",
        "tests/unit/test_client.py -k comes_twice",
    ),
    Mutation(
        "a connection on which something came unasked is not used again",
        "transport.py",
        "        return self.has_news() or _has_unread(self._fileno)",
        "        return False",
        "tests/unit/test_client.py -k comes_twice",
    ),
    Mutation(
        "through a proxy no connection is used twice",
        "client.py",
        "max_connections=1, max_keepalive_connections=0",
        "max_connections=1",
        "tests/unit/test_client.py -k through_a_proxy",
    ),
    Mutation(
        "once a request may have left, a failure of the connection is doubt",
        "transport.py",
        "        raise httpx.ReadError(str(error)) from error",
        "        raise httpx.ConnectError(str(error)) from error",
        "tests/unit/test_client.py -k in_doubt_is_said",
    ),
    Mutation(
        "what closing a client cuts is not whole",
        "transport.py",
        'self._failure or ConnectionAbortedError(errno.ECONNABORTED, "closed by us")',
        "self._failure",
        "tests/unit/test_client.py -k cut_by_closing",
    ),
    Mutation(
        "what is said before anything was asked answers nothing",
        "transport.py",
        "if line.has_news() or (not https and line.has_unexpected_data()):",
        "if False:",
        "tests/unit/test_client.py -k before_anything_was_asked",
    ),
    Mutation(
        "a send is not retried by Prefect",
        "tasks.py",
        '    "retries": 0,\n    "retry_condition_fn": _nothing_happened,',
        '    "retries": 2,\n    "retry_condition_fn": None,',
        "tests/acceptance/test_tasks.py -k users_settings",
    ),
    Mutation(
        "recipients that are checked in one go are the recipients that were given",
        "protocol/__init__.py",
        ' and joined.count(",") == len(names) - 1',
        "",
        "tests/unit/protocol/test_responses.py -k test_recipients_that_cannot_be_sent",
    ),
    Mutation(
        "recipients that come in one piece are checked",
        "protocol/__init__.py",
        " and are_joined_msisdns(recipients)",
        "",
        "tests/unit/protocol/test_responses.py -k test_recipients_that_cannot_be_sent",
    ),
    Mutation(
        "one connection that is closed unannounced, and none is used again for a while",
        "transport.py",
        "        self._wary_until = time.monotonic() + _WARY_S",
        "        pass",
        "tests/unit/test_client.py -k closed_unannounced_are_not",
    ),
    Mutation(
        "after a refusal a connection is not used again",
        "client.py",
        "            if own is not None:\n                own.leave()\n            raise",
        "            raise",
        "tests/unit/test_client.py -k refusal_that_comes_once_more",
    ),
    Mutation(
        "a code that is not documented rejects nobody unheard",
        "campaign/send_decisions.py",
        'error.scope in {"number", "unknown"}',
        'error.scope == "number"',
        f"{ENGINE} -k test_a_code_that_is_not_documented_rejects",
    ),
    Mutation(
        "a changed text needs a say-so",
        "campaign/planning.py",
        "    if changed and not allow_changed_text:",
        "    if False:",
        "tests/acceptance/test_send_campaign.py -k test_started_again",
    ),
]


def fails(mutation: Mutation, *, mutated: bool) -> bool:
    """Whether the named test fails in a copy of the project, with the rule broken or as it is."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        for name in ("prefect_mymsp", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
        target = copy / "prefect_mymsp" / mutation.file
        source = target.read_text(encoding="utf-8")
        if source.count(mutation.old) != 1:
            sys.exit(f"{mutation.file} no longer holds just one {mutation.old!r}")
        if mutated:
            target.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
        command = f"{sys.executable} -m pytest -n 0 -q -x -p no:cacheprovider {mutation.test}"
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            ["sh", "-c", command], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):  # no such test, or an error of ours
            sys.exit(f"{mutation.test}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rules or files that hold this word")
    only = parser.parse_args().only
    missed, sound = [], set[str]()
    for mutation in MUTATIONS:
        if only not in f"{mutation.rule} {mutation.file}":
            continue
        if mutation.test not in sound and fails(mutation, mutated=False):
            sys.exit(f"{mutation.test} fails even with every rule in place")
        sound.add(mutation.test)
        seen = fails(mutation, mutated=True)
        print(f"{'noticed' if seen else 'MISSED '}  {mutation.rule}  [{mutation.test}]", flush=True)
        missed += [] if seen else [mutation.rule]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
