"""Whether the broker answers, whether it refuses us, and what librdkafka says to a log.

Rules: librdkafka calls back in threads of its clients, so what is kept here are plain
attributes, each written whole. A broker that is away is told once when it goes and once
when it is back. A refusal that waiting does not mend becomes one
:class:`~trio_ticks.errors.BrokerError`, raised by whoever asks next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from ...errors import BrokerError, ConfigError
from ...logs import LogLimit, log_event
from .library import confluent
from .masking import redactor
from .settings import KafkaSettings

__all__ = ["Health"]

_logger = logging.getLogger("trio_ticks.brokers")

_LOGIN = "check sasl.mechanism, sasl.username and sasl.password"
_ACL = "the operator must permit it to this user"
_REFUSALS: Final = {
    "_AUTHENTICATION": _LOGIN,
    "SASL_AUTHENTICATION_FAILED": _LOGIN,
    "UNSUPPORTED_SASL_MECHANISM": _LOGIN,
    "ILLEGAL_SASL_STATE": "check security.protocol",
    "_SSL": "check security.protocol, ssl.ca.location and the certificates",
    "TOPIC_AUTHORIZATION_FAILED": f"topic: {_ACL}",
    "GROUP_AUTHORIZATION_FAILED": f"group: {_ACL}",
    "CLUSTER_AUTHORIZATION_FAILED": f"cluster: {_ACL}",
    "INVALID_GROUP_ID": "give the group another name",
    "INCONSISTENT_GROUP_PROTOCOL": "another program is in this group with another "
    "partition.assignment.strategy: give this one a group of its own",
    "UNSUPPORTED_VERSION": "the broker is too old",
    "_UNSUPPORTED_FEATURE": "the broker is too old",
    "POLICY_VIOLATION": "the broker's policy forbids it",
    "INVALID_REPLICATION_FACTOR": "give replication, or have the operator make the topic",
    "_FENCED": "another client has the same identity",
}
"""Errors that waiting does not mend, by librdkafka's names, and what to do."""

_LINES_S: Final = 5.0
"""Seconds from one line of librdkafka's of a level to the next."""


@final
class Health:
    """What is known of the broker by the clients of one end.

    Args:
        kafka: the buffer.
        now: seconds that only go forward, safe in any thread.
    """

    def __init__(self, kafka: KafkaSettings, now: Callable[[], float]) -> None:
        self._shown = kafka.shown
        self._redact = redactor(
            [kafka.settings, kafka.producer_settings, kafka.consumer_settings]
        ).text
        self._now = now
        self._limit = LogLimit(now, _LINES_S)
        self._ever = False
        self._told_away = False
        self.connected = False
        """Whether the broker answered last."""
        self.reconnects = 0
        """How often it came back."""
        self.round_trip_s: float | None = None
        """How long its last answer took, in seconds."""
        self._refusal: str | None = None
        self._let_go = False

    def let_go(self) -> None:
        """Log nothing more of a client that goes on by itself: nobody waits for it."""
        self._let_go = True

    def heard(self, began: float | None = None) -> None:
        """Note an answer of the broker; *began* is when it was asked."""
        if began is not None:
            self.round_trip_s = max(0.0, self._now() - began)
        if self.connected:
            return
        if self._ever and self._told_away:
            self.reconnects += 1
            log_event(_logger, logging.INFO, "broker.back", buffer=self._shown)
        elif not self._ever:
            log_event(_logger, logging.INFO, "broker.connected", buffer=self._shown)
        self._ever = self.connected = True
        self._told_away = False

    def away(self, why: str) -> None:
        """Note that the broker does not answer."""
        self.connected = False
        if not self._told_away and not self._let_go:
            self._told_away = True
            log_event(
                _logger,
                logging.WARNING,
                "broker.away",
                "%s does not answer, and is waited for: %s",
                self._shown,
                self._redact(why),
                buffer=self._shown,
            )

    def error(self, error: Any) -> None:
        """Note an error of librdkafka's: it is the client's ``error_cb``."""
        name = error.name()
        if error.fatal():
            self._refusal = self._refusal or f"{self._redact(error.str())} (fatal)"
        elif name in _REFUSALS:
            self._refusal = self._refusal or self._sentence(error)
        elif name in ("_ALL_BROKERS_DOWN", "_RESOLVE"):
            self.away(error.str())

    def _sentence(self, error: Any) -> str:
        return (
            f"{self._redact(error.str())} ({error.name()}). What to do: {_REFUSALS[error.name()]}"
        )

    def is_refusal(self, error: Any) -> bool:
        """Tell whether *error* is one that waiting does not mend."""
        return bool(error.fatal()) or error.name() in _REFUSALS

    def refuse(self, why: str) -> None:
        """Have the next :meth:`check` raise."""
        self._refusal = self._refusal or self._redact(why)

    def check(self) -> None:
        """Raise if the broker has refused us.

        Raises:
            BrokerError: it has.
        """
        if self._refusal is not None:
            raise BrokerError(f"{self._shown}: {self._refusal}", buffer=self._shown)

    def log(self, level: int, text: str, *args: object) -> None:
        """Write a line of librdkafka's to the log, at most one in 5 s of a level."""
        count = 0 if self._let_go else self._limit.due(logging.getLevelName(level))
        if count:
            line = self._redact(text % args if args else text)
            log_event(_logger, level, "broker.client", "%s", line, lines=count)

    def client(self, kind: Callable[..., Any], settings: Mapping[str, Any]) -> Any:
        """Return a client of the class *kind*.

        Raises:
            ConfigError: librdkafka does not take the settings.
        """
        try:
            return kind({**settings, "error_cb": self.error}, logger=self)
        except (confluent().KafkaException, TypeError, ValueError) as error:
            what = error.args[0] if error.args else error
            text = what.str() if hasattr(what, "str") else str(what)
            raise ConfigError(
                f"{self._shown}: librdkafka does not take the settings: {self._redact(text)}"
            ) from None
