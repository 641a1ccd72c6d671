"""The settings of a Kafka buffer: checked when they are made, secrets never shown.

Rules: no I/O. librdkafka checks its own settings, when a client is made with them; here
only those are refused that the buffer must decide itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from ...checks import check_count, check_flag, check_number, check_seconds, check_text, checked
from ...errors import ConfigError
from .library import confluent
from .masking import is_secret, masked

__all__ = ["KafkaSettings"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,244}")
"""What Kafka allows, less ``.dead``."""

_OURS: Final = {
    "bootstrap.servers": "say it as servers",
    "metadata.broker.list": "say it as servers",
    "group.id": "say it as group",
    "acks": "a tick is appended when all replicas have it",
    "request.required.acks": "a tick is appended when all replicas have it",
    "enable.idempotence": "it is always on",
    "transactional.id": "transactions are not used",
    "message.timeout.ms": "a broker that is away is waited for",
    "delivery.timeout.ms": "a broker that is away is waited for",
    "enable.auto.commit": "a tick is committed when it has an outcome",
    "enable.auto.offset.store": "a tick is committed when it has an outcome",
    "auto.commit.interval.ms": "a tick is committed when it has an outcome",
    "enable.partition.eof": "it is not needed",
    "on_delivery": "the buffer has its own callbacks",
    "on_commit": "the buffer has its own callbacks",
    "error_cb": "the buffer has its own callbacks",
    "logger": "librdkafka's lines go to the logger trio_ticks.brokers",
}
_WHOLE: Final = ("partitions", "maxsize", "pack", "prefetch", "replication", "max_deliveries")


def _check_name(name: str, value: object) -> None:
    check_text(name, value)
    if not _NAME.fullmatch(str(value)) or value in (".", ".."):
        raise ConfigError(
            f"{name} must be a name that Kafka takes, up to 244 letters, digits, dots, "
            f"underscores and hyphens, got {value!r:.300}"
        )


def _check_servers(name: str, value: object) -> None:
    check_text(name, value)
    for server in str(value).split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or "/" in host or "@" in host:
            raise ConfigError(
                f'{name} must be "host:port", or several with commas between them; a password '
                "goes into settings, as sasl.password"
            )


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} must be a mapping of librdkafka's settings by their names")
    for key in value:
        if key in _OURS:
            raise ConfigError(f"{name} must not have {key!r}: {_OURS[key]}")


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _mapping() -> Any:
    return attrs.field(
        factory=dict,
        converter=_copied,
        validator=checked(_check_mapping),
        repr=lambda value: repr(masked(value)),
    )


@attrs.frozen
class KafkaSettings:
    """The settings; :class:`~trio_ticks.brokers.kafka.Kafka` says what they mean."""

    servers: str = attrs.field(validator=checked(_check_servers))
    topic: str = attrs.field(default="ticks", validator=checked(_check_name))
    group: str = attrs.field(kw_only=True, validator=checked(check_text))

    @group.default
    def _own_group(self) -> str:
        # Kafka's groups are the cluster's, not the topic's: in one group two buffers
        # would stop each other's workers whenever one of either comes or goes.
        return f"{self.topic}-workers"

    partitions: int = attrs.field(
        default=8, kw_only=True, validator=checked(check_count, below=10_001)
    )
    maxsize: int = attrs.field(
        default=100_000, kw_only=True, validator=checked(check_count, of="ticks")
    )
    pack: int = attrs.field(
        default=256, kw_only=True, validator=checked(check_count, of="ticks", below=10_001)
    )
    prefetch: int = attrs.field(
        default=2000, kw_only=True, validator=checked(check_count, of="ticks")
    )
    settings: Mapping[str, Any] = _mapping()
    producer_settings: Mapping[str, Any] = _mapping()
    consumer_settings: Mapping[str, Any] = _mapping()
    create: bool = attrs.field(default=True, kw_only=True, validator=checked(check_flag))
    replication: int = attrs.field(
        default=-1, kw_only=True, validator=checked(check_count, least=-1)
    )
    max_deliveries: int = attrs.field(
        default=3, kw_only=True, validator=checked(check_count, least=2)
    )
    window: int = attrs.field(
        default=16_384, kw_only=True, validator=checked(check_count, of="ticks")
    )
    hand_over_s: float = attrs.field(default=3.0, kw_only=True, validator=checked(check_seconds))
    poll_s: float = attrs.field(
        default=0.2, kw_only=True, validator=checked(check_number, least=0.01)
    )

    def __attrs_post_init__(self) -> None:
        confluent()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return the buffer at ``kafka://host:9092,host2:9092/topic?group=workers``.

        The query may have ``group``, ``partitions``, ``maxsize``, ``pack``,
        ``prefetch``, ``replication``, ``max_deliveries`` and ``create`` (``true`` or
        ``false``); any name with a dot is a setting of librdkafka. A user and a
        password before the hosts are for SASL: PLAIN over TLS, unless the query says
        another ``sasl.mechanism`` or ``security.protocol``.

        Raises:
            ConfigError: the URL cannot be understood. The message does not show it,
                since it may hold a password.
        """
        try:
            parts = urlsplit(url)
            query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except (ValueError, AttributeError, TypeError):
            raise ConfigError("the URL of the buffer cannot be read") from None
        if parts.scheme != "kafka":
            raise ConfigError('the URL of a Kafka buffer must begin with "kafka://"')
        user, _, servers = parts.netloc.rpartition("@")
        given: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        if user:
            name, _, password = user.partition(":")
            settings = {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "PLAIN",
                "sasl.username": unquote(name),
                "sasl.password": unquote(password),
            }
        for key, value in query:
            if "." in key:
                settings[key] = value
            else:
                given[key] = _from_text(key, value)
        servers = ",".join(_with_port(each) for each in servers.split(","))
        return cls(servers, parts.path.strip("/") or "ticks", settings=settings, **given)

    @property
    def dead_topic(self) -> str:
        """The topic of the dead letters."""
        return f"{self.topic}.dead"

    @property
    def shown(self) -> str:
        """The buffer as a URL without secrets, for messages."""
        return f"kafka://{self.servers}/{self.topic}?group={self.group}"

    @property
    def secret_settings(self) -> bool:
        """Whether any setting is a secret."""
        every = (self.settings, self.producer_settings, self.consumer_settings)
        return any(is_secret(name) for each in every for name in each)


def _from_text(key: str, value: str) -> Any:
    if key in _WHOLE:
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"{key} must be a whole number, got {value!r:.60}") from None
    if key == "create":
        if value not in ("true", "false"):
            raise ConfigError(f'create must be "true" or "false" in a URL, got {value!r:.60}')
        return value == "true"
    if key != "group":
        raise ConfigError(
            f"a Kafka buffer has no setting {key!r:.60}; it may have "
            f"{', '.join(sorted({*_WHOLE, 'create', 'group'}))}, and librdkafka's own, which have "
            "a dot"
        )
    return value


def _with_port(server: str) -> str:
    return server if server.rpartition(":")[0] or not server else f"{server}:9092"
