"""The states of a request, its legal changes, and what each state means for a message.

A message's state is its request's. The journal's triggers are generated from :data:`TRANSITIONS`, and everything that
counts, reports or follows messages uses the sets below.
"""

from __future__ import annotations

PLANNED = "planned"
SENDING = "sending"
ACCEPTED = "accepted"
REFUSED = "refused"
IN_DOUBT = "in_doubt"
RELEASED = "released"
SPLIT = "split"
ASSUMED = "assumed"
CANCELLED = "cancelled"

#: All states of a request.
STATES = (PLANNED, SENDING, ACCEPTED, REFUSED, IN_DOUBT, RELEASED, SPLIT, ASSUMED, CANCELLED)

#: The states a request may change to, by the state it is in. States that are missing here never change.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    PLANNED: (SENDING,),
    SENDING: (ACCEPTED, REFUSED, IN_DOUBT, RELEASED, SPLIT),
    IN_DOUBT: (ACCEPTED, REFUSED, RELEASED, ASSUMED),
    ACCEPTED: (IN_DOUBT, CANCELLED),
}

#: Requests whose messages were moved to other requests; they hold no messages.
EMPTIED_STATES = frozenset({RELEASED, SPLIT})
#: The states a message can have, in the order in which they are shown.
MESSAGE_STATES = tuple(state for state in STATES if state not in EMPTIED_STATES)
#: A message in one of these states is on its way, or was (perhaps) sent: the same text must not be sent again.
PERHAPS_SENT_STATES = (SENDING, ACCEPTED, IN_DOUBT, ASSUMED)
#: The gateway reports nothing more about a message in one of these states. Accepted messages become final later.
FINAL_STATES = (REFUSED, ASSUMED, CANCELLED)
#: The states a request has while it was given a message id.
IDENTIFIED_STATES = (ACCEPTED, CANCELLED)

#: The gateway's only status that never changes again. ``undelivered``, above all, is not final: the gateway shows it
#: for messages that are still to be sent.
DELIVERED = "delivered"


def is_delivered(status: str | None) -> bool:
    """Whether a gateway's status means that the phone confirmed the message."""
    return status == DELIVERED
