"""Break each rule that costs money, and check that a test notices.

    python tests/mutations.py [--only WORD]

Each mutation is made in a copy of the package, and the named test is run against it. If no test fails, nothing holds
that rule, and this command fails.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.mutation import (
    Mutation,
    always,
    drop,
    never,
    preceded_by,
    returning,
    swapped,
    test_fails,
    to,
    without,
)

CAMPAIGN = "tests/unit/campaign"
SENDING = "tests/integration/campaign"
JOURNAL = "tests/integration/journal"
FLOWS = "tests/acceptance"

AT_ONCE = f"{SENDING}/test_send_at_once.py -k"
TIMING = f"{SENDING}/test_send_timing.py -k"
STOPPED = f"{SENDING}/test_send_stopped.py -k"
DECISIONS = f"{CAMPAIGN}/test_send_decisions.py -k"
SCHEDULE = f"{CAMPAIGN}/test_delivery_schedule.py -k"
MATCHING = f"{CAMPAIGN}/test_matching.py -k"
EVIDENCE = f"{CAMPAIGN}/test_evidence.py -k"

MUTATIONS = [
    # -- sending -----------------------------------------------------------------------------------------------------
    Mutation(
        "the intent is durable before the request leaves",
        "campaign/sender.py::_Sender._send_batch",
        "statement send recipients text",
        preceded_by(
            "with self._journal._database.write() as connection:\n"
            "    connection.exec_driver_sql('DROP TRIGGER IF EXISTS batch_transition')\n"
            "    connection.exec_driver_sql(\"UPDATE batch SET state = 'planned', run_id = NULL, claimed_at = NULL \"\n"
            "                               'WHERE id = ' + str(batch.id))"
        ),
        f"{AT_ONCE} intent_is_durable",
    ),
    Mutation(
        "no request is made after the lease",
        "campaign/sender.py::_Sender._send_batch",
        "condition lease_allows_request",
        never,
        f"{CAMPAIGN}/test_sender.py -k suspended",
    ),
    Mutation(
        "a lease is safe for nine tenths of its time",
        "campaign/send_decisions.py::lease_allows_request",
        "return _SAFE_LEASE_SHARE",
        returning("now_s - renewed_at_s <= lease_s"),
        f"{DECISIONS} end_of_a_lease",
    ),
    Mutation(
        "a request in doubt is recorded as in doubt",
        "campaign/send_decisions.py::judge_response",
        "return IN_DOUBT stop reason error 40",
        swapped("IN_DOUBT", "RELEASED"),
        f"{AT_ONCE} request_in_doubt_is_not_repeated",
    ),
    Mutation(
        "an interrupted request is in doubt",
        "campaign/send_decisions.py::judge_response",
        "return IN_DOUBT interrupted",
        swapped("IN_DOUBT", "RELEASED"),
        f"{DECISIONS} response_decides",
    ),
    Mutation(
        "repeated doubt stops the campaign",
        "campaign/send_decisions.py::judge_response",
        "value in_doubt max_consecutive_failures",
        never,
        f"{DECISIONS} failures_in_a_row",
    ),
    Mutation(
        "repeated refusals stop the campaign",
        "campaign/send_decisions.py::_judge_refusal",
        "value refused max_consecutive_failures",
        never,
        f"{DECISIONS} failures_in_a_row",
    ),
    Mutation(
        "a refused account stops the campaign",
        "campaign/send_decisions.py::_judge_refusal",
        "condition account campaign",
        never,
        f"{DECISIONS} response_decides",
    ),
    Mutation(
        "a bad number is bisected",
        "campaign/send_decisions.py::_judge_refusal",
        "condition batch_size",
        never,
        f"{AT_ONCE} bad_number_is_bisected",
    ),
    Mutation(
        "outcomes are kept when the journal does not take them",
        "campaign/sender.py::_Sender._taking_outcomes",
        "operation outcomes _outcomes",
        to("self._outcomes"),
        f"{STOPPED} outcomes_are_recorded",
    ),
    Mutation(
        "a batch that was not started is released",
        "campaign/sender.py::_Sender._send_all",
        "statement not-started",
        to("self._ready.popleft()"),
        f"{CAMPAIGN}/test_sender.py -k not_started",
    ),
    Mutation(
        "the claim window follows the pace",
        "campaign/send_decisions.py::next_claim_window",
        "return pace",
        returning("MAX_CLAIM_WINDOW"),
        f"{DECISIONS} claim_window",
    ),
    Mutation(
        "waiting for the gate is not the pace of requests",
        "campaign/sender.py::_Sender._claim_loop",
        "call next_claim_window",
        to(
            "next_claim_window(self._claim_window, 0, self._clock.monotonic() - claim_began_s,"
            " self._options.claim_window_s, self._client.connections)"
        ),
        f"{TIMING} slow_gate",
    ),
    Mutation(
        "no claims are made once all is claimed",
        "campaign/sender.py::_Sender._is_finished",
        "condition _in_flight _ready _stop_cause",
        to("self._in_flight and not self._ready"),
        f"{AT_ONCE} no_claims_are_made",
    ),
    Mutation(
        "messages that another run releases are sent",
        "campaign/send_decisions.py::next_step",
        "return CLAIM FINISH",
        returning("NextStep.FINISH"),
        f"{AT_ONCE} another_run_releases",
    ),
    # -- when --------------------------------------------------------------------------------------------------------
    Mutation(
        "outside the send window nothing is sent at once",
        "campaign/delivery_schedule.py::DeliverySchedule._stays_open",
        "return contains",
        returning("True"),
        f"{TIMING} outside_its_window",
    ),
    Mutation(
        "a request that may arrive after the window closes is not begun",
        "campaign/delivery_schedule.py::DeliverySchedule._stays_open",
        "return contains",
        without("max_request_s"),
        f"{TIMING} before_the_window_closes",
    ),
    Mutation(
        "messages scheduled to an opening can be looked up before",
        "campaign/delivery_schedule.py::DeliverySchedule._first_minute",
        "return ceil_minute lookup_margin_s",
        returning("ceil_minute(now)"),
        f"{SCHEDULE} when_messages_go_out",
    ),
    Mutation(
        "the rate delays scheduled messages",
        "campaign/delivery_schedule.py::DeliverySchedule.next_delivery",
        "statement floor_minute free_from",
        drop,
        f"{SCHEDULE} when_messages_go_out",
    ),
    Mutation(
        "messages wait for their turn before they are claimed",
        "campaign/sender.py::_Sender._wait_for_turn",
        "statement _pause",
        to("break"),
        f"{TIMING} spaces_requests_out",
    ),
    Mutation(
        "messages wait for the gate before they are claimed",
        "campaign/sender.py::_Sender._wait_for_turn",
        "statement _acquire",
        drop,
        f"{TIMING} gate_is_passed",
    ),
    Mutation(
        "workers share the campaign's rate",
        "campaign/rate.py::worker_rate",
        "return workers",
        returning("per_minute"),
        f"{CAMPAIGN}/test_rate.py -k total_rate",
    ),
    # -- reconciling -------------------------------------------------------------------------------------------------
    Mutation(
        "absence needs several lists",
        "campaign/matching.py::_Matcher._absent",
        "return REQUIRED_LISTS",
        returning("SendAgain(request.batch_id)"),
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "absence counts after the response can no longer arrive",
        "campaign/matching.py::_Matcher._absent",
        "condition late_arrival",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "shortly before the delivery time nothing is sent again",
        "campaign/matching.py::is_in_time",
        "return",
        returning("True"),
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a list that lacks a known message proves no absence",
        "campaign/matching.py::_Matcher._obstacle",
        "condition listing_is_whole",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "an unidentified message proves no absence",
        "campaign/matching.py::_Matcher._obstacle",
        "condition all_identified",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a message without a result is ignored once",
        "campaign/reconciler.py::Reconciler._identify",
        "statement NO_SUCH_MESSAGE",
        without("_without_result"),
        f"{CAMPAIGN}/test_reconciler.py -k ignored_once",
    ),
    Mutation(
        "misread times prove no absence",
        "campaign/matching.py::_Matcher._obstacle",
        "condition times_verified",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "nothing is proven absent in the repeated hour",
        "campaign/matching.py::_Matcher.settle",
        "condition is_repeated_hour",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "requests that cannot be told apart are not linked by guessing",
        "campaign/matching.py::_Matcher.settle",
        "condition text_id",
        without("text_id"),
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a released request that arrives late is cancelled",
        "campaign/matching.py::_Matcher.settle",
        "condition released arrived doubtful -text_id",
        to("arrived and doubtful"),
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a request to a group is neither recognised nor absent",
        "campaign/matching.py::_Matcher.settle",
        "condition to_group",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a message that may be a group's is matched with nothing else",
        "campaign/matching.py::_Matcher.settle",
        "condition _group_requests minute",
        never,
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a message with other recipients is not touched",
        "campaign/matching.py::_Matcher.settle",
        "call _unknown get",
        to("[message_id for ids in self._unknown.values() for message_id in ids]"),
        f"{MATCHING} test_decision",
    ),
    Mutation(
        "a request that is being rescheduled may be listed with either time",
        "campaign/matching.py::ListingHistory.record",
        "condition rescheduled_to",
        to("minute == request.send_at"),
        f"{MATCHING} either_time",
    ),
    Mutation(
        "an id that the list does not show is checked before it is rejected",
        "campaign/evidence.py::is_listed_under",
        "return sent_before",
        returning("False"),
        f"{EVIDENCE} schedule_does_not_show",
    ),
    # -- results and updates -----------------------------------------------------------------------------------------
    Mutation(
        "an id counts if its first result names exactly our recipients",
        "campaign/evidence.py::examine_result",
        "condition sent_before",
        without("recipients"),
        f"{EVIDENCE} test_result",
    ),
    Mutation(
        "an older message does not confirm an id",
        "campaign/evidence.py::examine_result",
        "condition sent_before",
        without("sent_before"),
        f"{EVIDENCE} test_result",
    ),
    Mutation(
        "an unknown id belongs to a request with exactly its recipients",
        "campaign/evidence.py::find_owner",
        "condition msisdns",
        without("msisdns"),
        f"{EVIDENCE} owner",
    ),
    Mutation(
        "while a group is in doubt an unknown id may be its message",
        "campaign/evidence.py::find_owner",
        "condition group_in_doubt",
        without("group_in_doubt"),
        f"{EVIDENCE} owner",
    ),
    Mutation(
        "in the repeated hour the second time is taken where the first is impossible",
        "times.py::resolve_repeated_hour",
        "return second",
        returning("value"),
        f"{EVIDENCE} repeated_hour",
    ),
    Mutation(
        "an update is stored before it is parsed",
        "campaign/updates.py::UpdateReader.read",
        "statement raw_responses add",
        preceded_by("self._client.parse_updates(raw)"),
        f"{SENDING}/test_update_reader.py -k stored_before_it_is_parsed",
    ),
    Mutation(
        "an update counts as read when all that it points to was looked up",
        "campaign/updates.py::UpdateReader._handle",
        "condition _look_up",
        to("await self._look_up(raw, result) or True"),
        f"{SENDING}/test_update_reader.py -k failed_lookup",
    ),
    Mutation(
        "an inbox counts when two responses agree",
        "campaign/inbox.py::confirms",
        "return unparsed",
        returning("True"),
        f"{SENDING}/test_inbox_reader.py -k no_cut",
    ),
    Mutation(
        "a message that is too old is not polled",
        "journal/deliveries.py::Deliveries.open_batches",
        "statement batch_due_at since",
        drop,
        f"{SENDING}/test_tracking_pass.py -k past_the_tracking_period_are_not_polled",
    ),
    # -- cancelling and rescheduling ---------------------------------------------------------------------------------
    Mutation(
        "requests in flight are cancelled with their campaign",
        "campaign/cancel.py::cancel_at_gateway",
        "value sending pending",
        without("sending"),
        f"{SENDING}/test_cancel.py",
    ),
    Mutation(
        "requests in doubt are settled when their campaign is cancelled",
        "campaign/cancel.py::cancel_at_gateway",
        "value in_doubt unknown_ids",
        never,
        f"{STOPPED} in_doubt_of_a_cancelled",
    ),
    Mutation(
        "a message that turns up of a cancelled campaign is cancelled",
        "campaign/track.py",
        "condition cancelled_at",
        never,
        f"{SENDING}/test_tracking_pass.py -k a_pass_cancels_late_arrivals",
    ),
    Mutation(
        "a cancelled campaign is not claimed",
        "journal/claims.py::Claims.claim",
        "condition cancelled",
        never,
        f"{SENDING}/test_cancel.py",
    ),
    Mutation(
        "a rescheduled campaign is not sent for its old time",
        "journal/campaigns.py::check_not_rescheduled",
        "condition send_at",
        never,
        f"{JOURNAL}/test_journal_schedule.py -k planned_message",
    ),
    Mutation(
        "a completion is reported once",
        "campaign/progress.py::CompletionLog.is_pending",
        "return complete messages",
        without("messages"),
        f"{SENDING}/test_tracking_pass.py -k completion_is_reported_once",
    ),
    Mutation(
        "only a message with the time that we gave it is rescheduled",
        "campaign/reschedule.py",
        "condition rescheduled_to send_at",
        without("send_at"),
        f"{SENDING}/test_reschedule.py -k foreign_messages",
    ),
    # -- the journal -------------------------------------------------------------------------------------------------
    Mutation(
        "only claims whose lease has ended are put in doubt",
        "journal/claims.py::Claims.expire_leases",
        "value run_id expired",
        to("schema.batch.c.run_id > 0"),
        f"{JOURNAL}/test_journal_doubt.py -k lease",
    ),
    Mutation(
        "claims of a dead run are in doubt",
        "journal/claims.py::_put_in_doubt",
        "keyword state IN_DOUBT",
        to("RELEASED"),
        f"{JOURNAL}/test_journal_doubt.py -k lease",
    ),
    Mutation(
        "the run that made a request knows its outcome best",
        "journal/claims.py::_settle_others",
        "call where SENDING IN_DOUBT",
        without("IN_DOUBT"),
        f"{JOURNAL}/test_journal_settling.py -k may_settle_it_after_its_lease",
    ),
    Mutation(
        "the same text is recorded once for each recipient, on PostgreSQL",
        "journal/recording.py::Recording.add",
        "call execute document on_conflict_do_nothing",
        to("self._connection.execute(statement, {'document': json.dumps(values)})"),
        f"{JOURNAL}/test_journal_recording.py -k occurs_twice",
    ),
    Mutation(
        "the same text is recorded once for each recipient, on SQLite",
        "journal/recording.py::Recording.add",
        "call execute_many on_conflict_do_nothing",
        to("execute_many(self._connection, statement, values)"),
        f"{JOURNAL}/test_journal_recording.py -k occurs_twice",
    ),
    Mutation(
        "reading of the inbox continues at the highest id",
        "journal/inbox.py",
        "keyword value max ids",
        to("str(ids[-1])"),
        f"{JOURNAL}/test_journal_inbox.py -k cursor",
    ),
    Mutation(
        "a purged text is not sent empty by the next campaign",
        "journal/retention.py::_empty_unused_texts",
        "call values digest",
        to("text.update().where(text.c.body != '', unused).values(body='')"),
        f"{JOURNAL}/test_journal_retention.py -k sent_empty",
    ),
    Mutation(
        "messages that are still to be sent are not purged",
        "journal/retention.py::Retention.purge",
        "condition unsent",
        without("unsent"),
        f"{JOURNAL}/test_journal_retention.py -k still_to_be_sent",
    ),
    Mutation(
        "a message that may have been sent is deleted only with its campaign purged",
        "journal/schema.py",
        "value _NOT_PURGED -_MESSAGE_STATE",
        to("'FALSE'"),
        f"{JOURNAL}/test_journal_settling.py -k claimed_message_cannot_be_deleted",
    ),
    Mutation(
        "reasons in the journal name no numbers",
        "journal/recording.py",
        "entry reason mask_numbers",
        to("reason"),
        f"{FLOWS}/test_leaks.py",
    ),
    # -- planning and flows ------------------------------------------------------------------------------------------
    Mutation(
        "suppressed numbers get nothing",
        "campaign/tally.py",
        "comparison reasons 0",
        to("reasons >= 100"),
        f"{FLOWS}/test_campaign_options.py -k suppressed_numbers_get_nothing",
    ),
    Mutation(
        "messages that must no longer be sent are dropped",
        "campaign/planning.py",
        "statement drop_planned",
        drop,
        f"{FLOWS}/test_campaign_options.py -k opt_outs_between",
    ),
    Mutation(
        "a changed text needs permission",
        "campaign/planning.py",
        "condition allow_changed_text",
        never,
        f"{FLOWS}/test_send_campaign.py -k second_start",
    ),
    Mutation(
        "a plan beyond its limits is not recorded",
        "flows/steps.py::_check_limits",
        "statement check_limits limits plan",
        drop,
        f"{FLOWS}/test_campaign_options.py -k beyond_a_limit",
    ),
    Mutation(
        "recipients that differ from the approved ones are not sent",
        "campaign/safeguards.py::check_same_as_approved",
        "condition digest",
        never,
        f"{FLOWS}/test_campaign_options.py -k what_was_approved",
    ),
    Mutation(
        "a run that starts too late sends nothing",
        "campaign/safeguards.py::check_start_time",
        "condition max_late_minutes",
        always,
        f"{FLOWS}/test_campaign_options.py -k starts_hours_late",
    ),
    Mutation(
        "a refused campaign is not sent",
        "flows/approval.py::request_approval",
        "condition answer",
        never,
        f"{FLOWS}/test_campaign_options.py -k refuses",
    ),
    Mutation(
        "numbers that were suppressed at the approval stay suppressed",
        "flows/steps.py::check_recipients",
        "statement suppressed approved",
        drop,
        f"{FLOWS}/test_campaign_options.py -k what_was_approved",
    ),
    Mutation(
        "an interrupted all-or-nothing campaign reports what waits at the gateway",
        "flows/send.py",
        "condition batches schedule",
        never,
        f"{FLOWS}/test_doubt.py -k all_or_nothing_that",
    ),
    Mutation(
        "Prefect does not retry a task that sends",
        "tasks.py",
        "entry retries 0",
        to("2"),
        f"{FLOWS}/test_tasks.py -k never_repeat_or_skip",
    ),
    # -- the client --------------------------------------------------------------------------------------------------
    Mutation(
        "errors do not expose the context that they suppress",
        "errors.py::MyMSPError",
        "condition __suppress_context__",
        never,
        "tests/unit/test_errors.py",
    ),
    Mutation(
        "a response that does not come in time is doubt",
        "client.py",
        "call NoResponseError timeout",
        to("UnreachableError('timeout')"),
        "tests/unit/test_client.py -k a_doubt_is_an_error",
    ),
    Mutation(
        "a 5xx response is doubt, whatever its body says",
        "client.py",
        "condition 200 300",
        to("200 <= status < 300 or status >= 500"),
        "tests/unit/test_client.py -k a_doubt_is_an_error",
    ),
    Mutation(
        "a connection through a proxy is used once",
        "client.py",
        "keyword max_keepalive_connections 0",
        to("1"),
        "tests/unit/test_transport.py -k through_a_proxy",
    ),
    Mutation(
        "a connection with surplus bytes is not used again",
        "transport.py",
        "condition trailing_data",
        never,
        "tests/unit/test_transport.py -k arrives_twice",
    ),
    Mutation(
        "data that arrives before the first request is not its response",
        "transport.py::SingleConnectionTransport._open",
        "condition has_data _closed",
        without("has_data"),
        "tests/unit/test_transport.py -k ends_before_the_request",
    ),
    Mutation(
        "after a refusal a connection is not used again",
        "client.py::AsyncMyMSPClient._attempt",
        "condition isinstance SingleConnectionTransport -SEND",
        never,
        "tests/unit/test_transport.py -k refusal_that_arrives_again",
    ),
    Mutation(
        "once a request may have left, a failed connection is doubt",
        "transport.py::_read_errors",
        "call ReadError",
        swapped("ReadError", "ConnectError"),
        "tests/unit/test_client.py -k a_doubt_is_an_error",
    ),
    Mutation(
        "a connection with unexpected data is not used again",
        "transport.py::SingleConnectionTransport._reusable_connection",
        "condition has_unexpected_data",
        never,
        "tests/unit/test_transport.py -k arrives_twice",
    ),
    Mutation(
        "after an id that arrives again the connection is not used again",
        "client.py::AsyncMyMSPClient._attempt",
        "condition value last_message_id",
        never,
        "tests/unit/test_transport.py -k an_id_that_arrives_again",
    ),
    Mutation(
        "connections are not kept open for a server that closes them without notice",
        "transport.py::SingleConnectionTransport.handle_async_request",
        "statement record_loss",
        drop,
        "tests/unit/test_transport.py -k keep_alive_ends",
    ),
    Mutation(
        "an interrupted call of the synchronous client is cancelled",
        "sync_client.py::MyMSPClient._call",
        "statement future cancel",
        drop,
        "tests/unit/test_sync_client.py -k ctrl_c_interrupts",
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rules or places that contain this word")
    only = parser.parse_args().only
    missed, sound = [], set[str]()
    for mutation in MUTATIONS:
        if only not in f"{mutation.rule} {mutation.place}":
            continue
        if mutation.test not in sound and test_fails(mutation, mutated=False):
            sys.exit(f"{mutation.test} fails even with every rule in place")
        sound.add(mutation.test)
        noticed = test_fails(mutation, mutated=True)
        print(f"{'noticed' if noticed else 'MISSED '}  {mutation.rule}  [{mutation.test}]", flush=True)
        missed += [] if noticed else [mutation.rule]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
