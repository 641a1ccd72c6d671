"""The way to the server: a connection that is made anew whenever it is lost.

On each connection: log in, choose the database, look whether this server will do, load
the scripts, agree on the buffer's settings, and make the group. A server that was
killed, failed over or emptied has none of these.

Rules: :class:`LostError` means that what was sent may have been done; the caller sends
it again, and the scripts tell it apart. ``BrokerError`` means that waiting does not
help. One task uses a link at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from random import Random
from typing import Any, Final, final

import trio

from ...clock import Clock
from ...errors import BrokerError
from ...logs import LogLimit, Redactor, log_event
from .clocks import ServerClock
from .connection import Caller, Command, LostError, Meanwhile, NotRespError, ReplyError
from .options import Options
from .refusals import AwayError, MovedError, ReplicaError, judge
from .scripts import ALL, LAYOUT, SETUP
from .topology import Topology, log_in

__all__ = ["Link"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")
_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 2.0
_REMIND_S: Final = 30.0
_OLDEST: Final = (6, 2)


@final
class Link:
    """The way of one task to the server of *buffer*.

    Args:
        buffer: its settings.
        clock: our clock.
        random: for the jitter of the waits.
        times: learns how far the server's clock is from ours.
        group: the group to make; an empty one for a producer.
        told: whether the log is told of losses and returns.
    """

    def __init__(
        self,
        buffer: Options,
        clock: Clock,
        random: Random,
        times: ServerClock,
        *,
        group: str = "",
        told: bool = False,
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._random = random
        self._times = times
        self._group = group
        self._told = told
        target = buffer.target
        self._target: Final = target
        self._shown: Final = buffer.shown
        self._topology = Topology(target, buffer.ssl_context, buffer.timeout, self._shown)
        self._redactor = Redactor(target.secrets)
        self._limit = LogLimit(clock.now, _REMIND_S)
        self._connection: Caller | None = None
        self._bound_s = _FIRST_WAIT_S
        self._good = True
        """Whether a command has worked on this connection, or none was sent."""
        self._waits = False
        """Whether to wait before the next connection."""
        self._loads = True
        """Whether the server may not have the scripts."""
        self._reason = ""
        self._replica_since: float | None = None
        self._lost_at: float | None = None
        self.connections = 0
        """How many were made."""
        self.round_trip_s: float | None = None
        """How long the last answer took for which nothing else was done, in seconds."""

    @property
    def connected(self) -> bool:
        """Whether the server answered last, and has not been lost since."""
        return self._connection is not None and self._lost_at is None

    async def call_all(
        self,
        commands: Sequence[Command],
        patience_s: float = 0.0,
        meanwhile: Meanwhile | None = None,
    ) -> list[Any]:
        """Send *commands* at once; return their replies, none of which is an error.

        Args, and *meanwhile*, which is not awaited if they cannot be sent: as
        :meth:`~.connection.Caller.call_all`.

        Raises:
            LostError: the server is away, or was lost on the way. Call
                :meth:`connect`, and send again.
            BrokerError: it refuses us.
            Exception: what *meanwhile* raises.

        Cancellation: the next call raises :class:`LostError`.
        """
        connection = self._connection
        if connection is None or not connection.usable:
            await self._drop("the connection was given up")
            raise LostError("not connected")
        sent = self._clock.wall()
        try:
            replies = await connection.call_all(commands, patience_s, meanwhile)
            for reply in replies:
                if isinstance(reply, ReplyError):
                    raise self._judge(reply)
        except LostError as error:
            if isinstance(error, MovedError):
                self._topology.moved(error.address)
            # Cancelled in there, the error is of no use to anybody.
            await self._drop(str(error), refused=isinstance(error, AwayError))  # noqa: ASYNC120
            raise
        except NotRespError as error:
            await self._drop("no Redis")  # noqa: ASYNC120  # as above
            raise self._not_redis(error) from error
        if not patience_s and meanwhile is None:
            self.round_trip_s = self._clock.wall() - sent
        if not self._good:
            self._recover()
        return replies

    async def call(self, command: Command) -> Any:
        """Send one command and return its reply.

        Raises:
            LostError: as :meth:`call_all`.
            BrokerError: as :meth:`call_all`.

        Cancellation: as :meth:`call_all`.
        """
        (reply,) = await self.call_all([command])
        return reply

    async def call_timed(self, command: Command, seconds: int) -> Any:
        """Send a command whose reply holds the server's time; learn from that.

        Args:
            command: with its arguments.
            seconds: the place of the seconds in the reply; the microseconds follow.

        Raises:
            LostError: as :meth:`call_all`.
            BrokerError: as :meth:`call_all`.

        Cancellation: as :meth:`call_all`.
        """
        sent = self._clock.wall()
        reply = await self.call(command)
        server = int(reply[seconds]) + int(reply[seconds + 1]) / 1e6
        self._times.observe(sent, self._clock.wall(), server)
        return reply

    async def connect(self) -> None:
        """Connect, and try again until that works.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: nothing is left open.
        """
        while not (self._connection is not None and self._connection.usable):
            if self._waits:
                await self._wait()
            try:
                await self._connect()
            except LostError as error:
                if isinstance(error, MovedError):
                    self._topology.moved(error.address)
                self._check_patience(error)
                self._reason = str(error)
                self._waits = True

    def _recover(self) -> None:
        """Note that the server does what we ask: only now is it back."""
        self._good = True
        self._bound_s = _FIRST_WAIT_S
        lost_at, self._lost_at = self._lost_at, None
        if not self._told:
            return
        if lost_at is None:
            log_event(_LOGGER, logging.INFO, "broker.connected", buffer=self._shown)
        else:
            away_s = round(self._clock.now() - lost_at, 3)
            log_event(_LOGGER, logging.INFO, "broker.back", buffer=self._shown, away_s=away_s)

    def _check_patience(self, error: LostError) -> None:
        """Raise if the server has been a replica for too long."""
        if not isinstance(error, ReplicaError):
            if isinstance(error, AwayError):
                self._replica_since = None
            return
        now = self._clock.now()
        if self._replica_since is None:
            self._replica_since = now
        patience_s = self._buffer.replica_patience
        if self._target.master is None and now - self._replica_since >= patience_s:
            raise BrokerError(
                f"{self._shown}: the server has been a replica for {patience_s:g} s; give the "
                "master's address, or that of the sentinels "
                "(redis+sentinel://host:26379/master/0)",
                buffer=self._shown,
            ) from error

    async def _wait(self) -> None:
        wait_s = self._bound_s * (0.5 + self._random.random() / 2)
        self._bound_s = min(2 * self._bound_s, _LONGEST_WAIT_S)
        if self._told and self._limit.due("away"):
            reason = self._redactor.excerpt(self._reason)
            log_event(_LOGGER, logging.WARNING, "broker.away", buffer=self._shown, reason=reason)
        await trio.sleep(wait_s)

    async def _drop(self, why: str, *, refused: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._reason = why
        # A server that refuses what we ask is asked less and less often.
        self._waits = refused or not self._good
        if not refused:
            self._bound_s = _FIRST_WAIT_S
        if self._good or self._lost_at is None:
            self._lost_at = self._clock.now()
            if self._told:
                reason = self._redactor.excerpt(why)
                log_event(
                    _LOGGER, logging.WARNING, "broker.lost", buffer=self._shown, reason=reason
                )
        await connection.aclose()

    async def aclose(self) -> None:
        """Close the connection.

        Cancellation: it is closed all the same.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    # A new connection

    async def _connect(self) -> None:
        connection = await self._topology.open()
        try:
            await log_in(connection, self._target)
            await self._prepare(connection)
            self._connection = connection
        except NotRespError as error:
            raise self._not_redis(error) from error
        except ReplyError as error:
            raise self._judge(error) from None
        finally:
            if self._connection is None:
                await connection.aclose()  # noqa: ASYNC102  # it does not wait
        self.connections += 1
        self._good = self._waits = False
        self._replica_since = None

    async def _prepare(self, connection: Caller) -> None:
        """Look at the server, load the scripts, agree on the settings: a round trip."""
        buffer = self._buffer
        keys = buffer.keys
        ours = (str(buffer.maxsize), str(buffer.shards), str(LAYOUT))
        looks: list[Command] = [("INFO", each) for each in ("server", "replication", "memory")]
        loads: list[Command] = []
        if self._loads:
            loads = [("SCRIPT", "LOAD", script.body) for script in ALL]
        setup = SETUP.call(
            [keys.settings, keys.state, keys.groups, keys.done, *keys.streams], *ours, self._group
        )
        sent = self._clock.wall()
        replies = await connection.call_all([*looks, *loads, setup])
        received = self._clock.wall()
        self._inspect(replies[: len(looks)])
        for reply in replies[len(looks) :]:
            if isinstance(reply, ReplyError):
                raise reply
        self._loads = False
        try:
            kept, server_s, server_us = replies[-1][:3], *map(int, replies[-1][3:5])
            theirs = tuple(each.decode("utf-8", "replace") for each in kept)
        except (ValueError, TypeError, AttributeError):
            raise NotRespError("a script answered with something else") from None
        self.round_trip_s = received - sent
        self._times.observe(sent, received, server_s + server_us / 1e6)
        self._compare(theirs, ours)

    def _inspect(self, replies: list[Any]) -> None:
        """Look at the server's version, role and policy, as far as we may."""
        facts: dict[str, str] = {}
        for reply in replies:
            if isinstance(reply, ReplyError):
                error = self._judge(reply)
                if isinstance(error, AwayError) or "NOAUTH" in str(reply):
                    raise error from None
                # We may not ask: then the server's refusals have to tell.
                continue
            if not isinstance(reply, bytes):
                raise NotRespError("INFO answered with something else")
            for line in reply.decode("utf-8", "replace").splitlines():
                key, _, value = line.partition(":")
                facts[key] = value
        version = facts.get("redis_version", "")
        numbers = tuple(int(each) for each in version.split(".")[:2] if each.isdigit())
        if version and numbers < _OLDEST:
            raise BrokerError(
                f"{self._shown}: the server is Redis {version}; Redis 6.2 or newer, or Valkey, "
                "is needed",
                buffer=self._shown,
            )
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise BrokerError(
                f"{self._shown}: the server's maxmemory-policy {policy} evicts keys, and the "
                "ticks in them; set it: CONFIG SET maxmemory-policy noeviction",
                buffer=self._shown,
            )
        if facts.get("role") == "slave":
            raise ReplicaError("the server is a replica")

    def _compare(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> None:
        """Raise if the buffer keeps other settings than ours."""
        buffer = self._buffer
        if theirs == ours:
            return
        if theirs[2] != ours[2]:
            advice = "use the same version of trio_ticks in all programs, or another name"
        else:
            advice = (
                "give all programs the same settings; to change them, let the buffer run empty, "
                f"stop all programs, and delete its keys ({{{buffer.name}}}:*)"
            )
        named = zip(("maxsize", "shards", "layout"), theirs, ours, strict=True)
        differences = [
            f"{name} is {kept}, and here {given}" for name, kept, given in named if kept != given
        ]
        raise BrokerError(
            f"{self._shown}: the buffer has other settings: {'; '.join(differences)}. {advice}",
            buffer=self._shown,
        )

    def _judge(self, error: ReplyError) -> AwayError | BrokerError:
        if str(error).startswith("NOSCRIPT"):
            self._loads = True
        return judge(self._redactor.text(str(error)), self._shown)

    def _not_redis(self, error: NotRespError) -> BrokerError:
        return BrokerError(
            f"{self._shown}: what answers there is no Redis server, or it wants TLS (rediss://): "
            f"{self._redactor.excerpt(str(error))}",
            buffer=self._shown,
        )
