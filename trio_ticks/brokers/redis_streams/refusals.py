"""What an error of the server means: it is away for a while, or it refuses us.

Rules: sans-I/O. A message says what to do, and holds no password.
"""

from __future__ import annotations

import re
from typing import Final, final

from ...errors import BrokerError
from .connection import LostError

__all__ = ["AwayError", "MovedError", "ReplicaError", "judge"]

_AWAY: Final = (
    "LOADING",
    "OOM",
    "MISCONF",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "BUSY",
    "UNBLOCKED",
    "NOSCRIPT",
    "NOGROUP",
    "UNKILLABLE",
    "NOMASTERLINK",
)
"""Errors that pass: the server is full, busy or starting, or has lost what we made."""
_MOVED: Final = re.compile(r"^(?:MOVED|ASK) \d+ (\S*):(\d+)")
_CODE: Final = re.compile(r"(?:^|[\s-])([A-Z]{3,})(?= )")
_COMMAND: Final = re.compile(r"'([\w|]+)' command")
_NO_PERMISSION: Final = ("NOPERM", "can't run this command", "has no permissions", "can't access")

_OTHER_TYPE: Final = (
    "a key of the buffer holds something else; give the buffer another name, or delete the "
    "keys that begin with {name}:"
)


class AwayError(LostError):
    """The server cannot do now what we want; trying again later will help."""


class ReplicaError(AwayError):
    """The server is a replica: after a failover, or since it is the wrong server."""


@final
class MovedError(AwayError):
    """Another node of the cluster has the buffer.

    Attributes:
        address: its host and port; the host may be empty: the one we asked.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(f"the buffer is at another node, {address[0]}:{address[1]}")
        self.address = address


def judge(text: str, shown: str, *, other_type: str = _OTHER_TYPE) -> AwayError | BrokerError:
    """Return what the server's error *text* means.

    Args:
        text: of the error, without secrets.
        shown: the buffer, as it may be shown.
        other_type: what to do if a key holds another type of value.
    """
    if moved := _MOVED.match(text):
        return MovedError((moved[1].strip("[]"), int(moved[2])))
    # Inside of scripts the code is somewhere in the text, at least in Redis 6.
    codes = _CODE.findall(text)
    for code in codes:
        if code == "READONLY":
            return ReplicaError(text)
        if code in _AWAY:
            return AwayError(text)
    if text.startswith("ERR max number of clients"):
        return AwayError(text)
    advice = f"{other_type} ({text})" if "WRONGTYPE" in codes else _advice(text, codes)
    return BrokerError(f"{shown}: {advice}", buffer=shown)


def _advice(text: str, codes: list[str]) -> str:
    if "WRONGPASS" in codes or text.startswith("ERR invalid password"):
        return f"the server refuses this user name or password; correct them in the url ({text})"
    if "NOAUTH" in codes or text.startswith("ERR AUTH"):
        if "without any password" in text:
            return f"the server wants no password; leave it out of the url ({text})"
        return f"the server wants a password; give one in the url: redis://user:password@… ({text})"
    if any(each in text for each in _NO_PERMISSION):
        found = _COMMAND.search(text)
        what = f"the command {found[1].upper()}" if found else "a command or key of the buffer"
        return (
            f"the user may not use {what}; allow it: ACL SETUSER … ~{{name}}:* +@all -@admin "
            f"-@dangerous +info, or at least what is named here ({text})"
        )
    if text.startswith("ERR DB index") or "SELECT is not allowed" in text:
        return f"the server has no such database; change the number in the url ({text})"
    if "DENIED" in codes:
        return f"the server takes local connections only; give it a password ({text})"
    if "unknown command" in text or "unknown subcommand" in text:
        return f"the server is too old, or a command is disabled; Redis 6.2 is needed ({text})"
    return f"the server refuses: {text}"
