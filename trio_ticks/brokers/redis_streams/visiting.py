"""A short visit to a buffer's server, for an operator: no worker, no producer.

Rules: one connection, which is closed at the end; nothing is tried again. The buffer's
own settings count, not those of the value.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from ...errors import BrokerError
from ...logs import Redactor
from .connection import Caller, Command, LostError, NotRespError, ReplyError
from .keys import Keys
from .options import MOST_SHARDS, Options
from .refusals import MovedError, judge
from .topology import Topology

__all__ = ["ask", "kept_settings", "visit"]

T = TypeVar("T")

_MOVES: Final = 3
"""How many nodes of a cluster are asked, at most."""


async def visit(buffer: Options, errand: Callable[[Caller], Awaitable[T]]) -> T:
    """Connect to the server of *buffer*, log in, and return what *errand* returns.

    Args:
        buffer: its settings.
        errand: is called with the connection; after a move in a cluster, again.

    Raises:
        BrokerError: the server is away or refuses us, or what *errand* raised.

    Cancellation: nothing is left open.
    """
    target = buffer.target
    topology = Topology(target, buffer.ssl_context, buffer.timeout, buffer.shown)
    redactor = Redactor(target.secrets)
    for _ in range(_MOVES):
        connection: Caller | None = None
        try:
            connection = await topology.open()
            if target.password is not None:
                name = (target.username,) if target.username else ()
                await connection.call("AUTH", *name, target.password)
            if target.database:
                await connection.call("SELECT", target.database)
            return await errand(connection)
        except ReplyError as error:
            judged = judge(redactor.text(str(error)), buffer.shown)
            if isinstance(judged, MovedError):
                topology.moved(judged.address)
                continue
            if isinstance(judged, BrokerError):
                raise judged from None
            raise _gone(buffer, redactor.excerpt(str(error))) from None
        except (LostError, NotRespError) as error:
            raise _gone(buffer, redactor.excerpt(str(error))) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            # An errand does nothing but to ask, and to read the answers.
            raise BrokerError(
                f"{buffer.shown}: the server's answers cannot be understood "
                f"({redactor.excerpt(repr(error))}). Either it is no Redis server, or another "
                f"program has written to the keys {{{buffer.name}}}:*",
                buffer=buffer.shown,
            ) from error
        finally:
            if connection is not None:
                await connection.aclose()
    raise _gone(buffer, "its node moves")


def _gone(buffer: Options, why: str) -> BrokerError:
    text = f"{buffer.shown}: no answer from the server: {why}"
    return BrokerError(text, buffer=buffer.shown)


async def kept_settings(connection: Caller, buffer: Options) -> tuple[int, Keys]:
    """Return ``maxsize`` of *buffer* and its keys, by the settings that it keeps.

    Raises:
        BrokerError: there is no such buffer.

    Cancellation: nothing is left behind; the connection is of no more use.
    """
    (found,) = await ask(connection, ("HMGET", buffer.keys.settings, "maxsize", "shards"))
    if found[0] is None or found[1] is None:
        raise BrokerError(
            f"{buffer.shown}: there is no such buffer yet; the first program that uses it makes it",
            buffer=buffer.shown,
        )
    shards = int(found[1])
    if not 1 <= shards <= MOST_SHARDS:
        raise ValueError(f"{shards} shards")
    return int(found[0]), Keys(buffer.name, shards)


async def ask(connection: Caller, *commands: Command) -> list[Any]:
    """Send *commands* at once, and return their replies.

    Raises:
        ReplyError: one of them is an error.

    Cancellation: as :meth:`Caller.call_all`.
    """
    replies = await connection.call_all(commands)
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise reply
    return replies
