"""Where confluent-kafka is imported, and only there: it is an extra.

Rules: imported when it is first needed; a missing package is one
:class:`~trio_ticks.ConfigError` that names the extra.
"""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError

__all__ = ["admin", "confluent"]


def confluent() -> Any:
    """Return the module ``confluent_kafka``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import confluent_kafka
    except ImportError as error:
        raise ConfigError(
            "a Kafka buffer needs confluent-kafka: pip install 'trio-ticks[kafka]'"
        ) from error
    return confluent_kafka


def admin() -> Any:
    """Return the module ``confluent_kafka.admin``.

    Raises:
        ConfigError: it is not installed.
    """
    confluent()
    import confluent_kafka.admin

    return confluent_kafka.admin
