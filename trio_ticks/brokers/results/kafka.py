"""Results in a topic of Kafka, for any number of workers and readers.

The key of a record is the tick's symbol, so that a symbol's results are in order. Its
value is MessagePack, unless *encode* says otherwise; its headers are ``place``
(``shard:position:index``; empty without a buffer) and ``attempt``.

Rules: the client runs in a thread, for one turn of writing at a time. Records that are
not confirmed in time raise ``ConnectionError``, so that the workers wait and come
again; then there may be two records with the same place and attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, final

import trio

from ...checks import check_seconds, check_text
from ...errors import BrokerError, ConfigError
from ...results import Result
from ..kafka.library import confluent
from ..kafka.masking import redactor
from .together import Encode, Together, pack_value, place_of

__all__ = ["KafkaResults"]

_SPARE_S: Final = 1.0
"""How much longer than a record's own time limit a turn may take, in seconds."""


@final
class KafkaResults:
    """Writes results to a topic of Kafka, as ``results=`` of a pipeline.

    Args:
        servers: ``"host:port"``, or several with commas between them.
        topic: the topic; it must be there, or the broker make it.
        settings: librdkafka's own settings, such as ``{"security.protocol": …}``.
        encode: turns a value into bytes; MessagePack unless given. What it raises fails
            the tick.
        timeout: after how many seconds without a confirmation the broker counts as
            away.

    Raises:
        ConfigError: a setting is wrong, or confluent-kafka is missing.
    """

    def __init__(
        self,
        servers: str,
        topic: str = "results",
        *,
        settings: Mapping[str, Any] | None = None,
        encode: Encode = pack_value,
        timeout: float = 5.0,
    ) -> None:
        check_text("servers", servers)
        check_text("topic", topic)
        check_seconds("timeout", timeout, positive=True)
        self._topic, self._encode, self._timeout_s = topic, encode, timeout
        self.shown: Final = f"kafka://{servers}/{topic}"
        """Where the results go, without a password."""
        given = dict(settings or {})
        self._redactor = redactor([given])
        self._settings: dict[str, Any] = {
            "linger.ms": 0,
            **given,
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": int(timeout * 1000),
            "log_level": 0,
        }
        self._client: Any = None
        confluent()
        self._together = Together(self._write)

    def __repr__(self) -> str:
        return f"KafkaResults({self.shown!r})"

    async def __aenter__(self) -> Self:
        """Make the client, which connects when it is first needed.

        Raises:
            ConfigError: librdkafka does not take the settings.

        Cancellation: harmless.
        """
        self._make()
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_reason: object) -> None:
        """Give the client up; all results were confirmed, or have failed."""
        client, self._client = self._client, None
        if client is not None:
            client.purge(blocking=False)
            client.poll(0)

    async def __call__(self, result: Result, /) -> None:
        """Write *result*; see :meth:`write_many`.

        Cancellation: it may be written.
        """
        await self.write_many([result])

    async def write_many(self, results: Sequence[Result], /) -> None:
        """Write *results*, with those of other workers that come meanwhile.

        Raises:
            ConnectionError: the broker is away.
            BrokerError: it refuses us.
            Exception: a value cannot be encoded.

        Cancellation: they may be written.
        """
        for result in results:
            self._encode(result.value)  # before others' results are among them
        await self._together.put(results)

    async def _write(self, results: list[Result]) -> None:
        self._make()
        errors = await trio.to_thread.run_sync(self._send, self._client, results)
        for error in errors:
            text = f"{self.shown}: {self._redactor.text(error.str())} ({error.name()})"
            if error.fatal():
                self._client = None  # made anew for the next ones
                raise ConnectionError(text)
            if error.retriable() or error.name() in ("_MSG_TIMED_OUT", "_TRANSPORT"):
                raise ConnectionError(text)
            raise BrokerError(text, buffer=self.shown)

    def _make(self) -> None:
        if self._client is not None:
            return
        try:
            self._client = confluent().Producer(self._settings)
        except (confluent().KafkaException, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.shown}: librdkafka does not take the settings: "
                f"{self._redactor.text(str(error.args[0] if error.args else error))}"
            ) from None

    def _send(self, client: Any, results: list[Result]) -> list[Any]:
        """Send *results*, and wait for their confirmations; runs in a thread."""
        errors: list[Any] = []

        def delivered(error: Any, _message: Any) -> None:
            if error is not None:
                errors.append(error)

        for result in results:
            client.produce(
                self._topic,
                self._encode(result.value),
                result.symbol,
                headers=[("place", place_of(result).encode()), ("attempt", b"%d" % result.attempt)],
                on_delivery=delivered,
            )
        client.flush(self._timeout_s + _SPARE_S)
        return errors
