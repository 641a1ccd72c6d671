"""Named scenes for check_channel: short lists of steps, each for one promise.

Rules: a scene says what is done, never what is right; trio's channel beside it does.
``now`` makes a step of the tick in which the next one happens too: no woken task runs
between.
"""

from __future__ import annotations

from .channel_lockstep import Step

__all__ = ["SCENES"]


def now(what: str, at: int = 0) -> Step:
    return Step(what, at, settle=False)


def step(what: str, at: int = 0, symbol: str = "A") -> Step:
    return Step(what, at, symbol=symbol)


SEND, RECEIVE = step("send"), step("receive")
PUT, GET = step("send_nowait"), step("receive_nowait")
CLONE_S, CLONE_R = step("clone sender"), step("clone receiver")
CLOSE_S, CLOSE_R = step("close sender"), step("close receiver")

SCENES: dict[str, tuple[int, list[Step]]] = {
    # Order
    "items come out in the order in which they were sent": (3, [PUT, SEND, PUT, GET, RECEIVE, GET]),
    "order holds across symbols": (
        3,
        [step("send", symbol=symbol) for symbol in "ABA"] + [RECEIVE, RECEIVE, RECEIVE],
    ),
    "order holds across clones": (
        3,
        [CLONE_S, CLONE_R, PUT, step("send", 1), PUT, step("receive", 1), RECEIVE, GET],
    ),
    # No waiting
    "send_nowait raises WouldBlock when the channel is full": (2, [PUT, PUT, PUT, GET, PUT, PUT]),
    "receive_nowait raises WouldBlock when the channel is empty": (1, [GET, PUT, GET, GET]),
    "a channel holds maxsize items and no more": (2, [PUT, PUT, SEND, SEND, PUT]),
    # Receivers that wait
    "a waiting receiver owns the item that is sent": (1, [RECEIVE, now("send_nowait"), GET]),
    "a waiting receiver owns the item, and others wait for the next": (
        1,
        [RECEIVE, now("send_nowait"), RECEIVE, PUT],
    ),
    "an item for a waiting receiver takes no room": (
        1,
        [RECEIVE, now("send_nowait"), now("send_nowait"), PUT],
    ),
    "the receiver that has waited longest gets the item": (2, [RECEIVE, RECEIVE, PUT, PUT]),
    "receivers on clones wait in one line": (
        2,
        [CLONE_R, step("receive", 1), step("receive", 0), step("receive", 1), PUT, PUT, PUT],
    ),
    "each waiting receiver gets one of the items of a tick": (
        2,
        [RECEIVE, RECEIVE, now("send_nowait"), now("send_nowait"), now("send_nowait"), GET],
    ),
    # Senders that wait
    "a waiting sender owns the room": (1, [PUT, SEND, now("receive_nowait"), PUT, GET]),
    "a waiting sender owns the room, and others wait for more": (
        1,
        [PUT, SEND, now("receive_nowait"), SEND, GET, GET],
    ),
    "the sender that has waited longest gets in first": (
        1,
        [PUT, SEND, SEND, SEND, GET, GET, GET, GET],
    ),
    "senders on clones wait in one line": (
        1,
        [CLONE_S, PUT, step("send", 1), step("send", 0), step("send", 1), GET, GET, GET, GET],
    ),
    "each room of a tick belongs to one waiting sender": (
        2,
        [PUT, PUT, SEND, SEND, SEND, now("receive_nowait"), now("receive_nowait"), PUT, GET, GET],
    ),
    "what a waiting sender brings is there at once": (
        1,
        [PUT, SEND, now("receive_nowait"), now("receive_nowait"), GET],
    ),
    # Closing
    "closing a sender ends the tasks that wait on that very handle": (
        1,
        [CLONE_S, PUT, SEND, step("send", 1), CLOSE_S, GET, GET],
    ),
    "closing a receiver ends the tasks that wait on that very handle": (
        1,
        [CLONE_R, RECEIVE, step("receive", 1), CLOSE_R, PUT],
    ),
    "the end of the last sender reaches every waiting receiver": (
        1,
        [CLONE_R, RECEIVE, step("receive", 1), RECEIVE, CLOSE_S, GET, RECEIVE],
    ),
    "a sender's clone keeps the channel open": (
        1,
        [CLONE_S, RECEIVE, CLOSE_S, step("send_nowait", 1), step("close sender", 1), GET],
    ),
    "what is in the buffer is received before the end": (
        2,
        [PUT, PUT, CLOSE_S, GET, RECEIVE, RECEIVE, GET],
    ),
    "what a closed sender waited to send is not received": (1, [PUT, SEND, CLOSE_S, GET, GET]),
    "the end of the last receiver breaks every waiting sender": (
        1,
        [CLONE_S, PUT, SEND, step("send", 1), CLOSE_R, PUT, SEND, step("send", 1)],
    ),
    "a receiver's clone keeps the channel whole": (
        1,
        [CLONE_R, PUT, SEND, CLOSE_R, step("receive", 1), step("close receiver", 1), PUT],
    ),
    "the end of the last receiver empties the buffer": (2, [PUT, PUT, CLOSE_R, PUT]),
    "an item that was handed over survives the end of its receiver": (
        1,
        [RECEIVE, now("send_nowait"), CLOSE_R],
    ),
    "an item that was handed over survives the end of its sender": (
        1,
        [RECEIVE, now("send_nowait"), CLOSE_S],
    ),
    "a sender that was let in is not broken": (1, [PUT, SEND, now("receive_nowait"), CLOSE_R]),
    "a sender that was let in is not closed": (
        1,
        [PUT, SEND, now("receive_nowait"), CLOSE_S, GET, GET],
    ),
    "closing twice is harmless": (
        1,
        [
            *(CLONE_S, CLONE_R, CLOSE_S, CLOSE_S, step("aclose sender")),
            *(CLOSE_R, CLOSE_R, step("aclose receiver")),
            *(step("send_nowait", 1), step("receive_nowait", 1)),
        ],
    ),
    "a closed sender refuses": (1, [CLONE_S, CLOSE_S, PUT, SEND, CLONE_S]),
    "a closed receiver refuses": (1, [CLONE_R, PUT, CLOSE_R, GET, RECEIVE, CLONE_R]),
    "a closed sender refuses before it breaks": (1, [CLOSE_R, CLOSE_S, PUT, SEND]),
    "a closed receiver refuses before it ends": (1, [CLOSE_S, CLOSE_R, GET, RECEIVE]),
    "a broken channel raises before it is full": (1, [PUT, CLOSE_R, PUT, SEND]),
    "aclose ends the tasks that wait, as close does": (
        1,
        [CLONE_R, RECEIVE, step("receive", 1), step("aclose receiver"), step("aclose sender")],
    ),
    # Cancellation
    "a cancelled sender has not sent": (1, [PUT, SEND, step("cancel"), GET, GET]),
    "a cancelled receiver has not received": (1, [RECEIVE, step("cancel"), PUT, GET]),
    "a receiver that has its item keeps it when cancelled": (
        1,
        [RECEIVE, now("send_nowait"), step("cancel"), GET],
    ),
    "a sender that was let in has sent, though cancelled": (
        1,
        [PUT, SEND, now("receive_nowait"), step("cancel"), GET, GET],
    ),
    "a cancelled receiver leaves its place at once": (
        1,
        [RECEIVE, RECEIVE, now("cancel"), PUT, PUT],
    ),
    "the only receiver, cancelled, leaves the item in the buffer": (
        1,
        [RECEIVE, now("cancel"), now("send_nowait"), PUT, GET],
    ),
    "a cancelled sender leaves its place at once": (
        1,
        [PUT, SEND, SEND, now("cancel"), GET, GET, GET],
    ),
    "the only sender, cancelled, leaves the room to others": (
        1,
        [PUT, SEND, now("cancel"), now("receive_nowait"), PUT, GET],
    ),
    "a cancelled task in the middle keeps the others' order": (
        1,
        [PUT, SEND, SEND, SEND, step("cancel", 1), GET, GET, GET],
    ),
    "cancelled and closed in one tick": (
        1,
        [RECEIVE, now("cancel"), now("close receiver"), CLOSE_S],
    ),
    "closed and cancelled in one tick": (
        1,
        [PUT, SEND, now("close sender"), now("cancel"), GET],
    ),
    "nothing is sent inside a cancelled scope": (1, [step("cancelled send"), GET]),
    "nothing is received inside a cancelled scope": (1, [PUT, step("cancelled receive"), GET]),
    "aclose closes inside a cancelled scope": (
        1,
        [RECEIVE, step("cancelled aclose receiver"), step("cancelled aclose sender"), PUT],
    ),
    # Statistics
    "the peak of the buffer is kept": (3, [PUT, PUT, GET, GET, PUT, GET]),
    "what is handed over directly is no peak": (2, [RECEIVE, PUT]),
}
