"""``trio-ticks retire``: keep nothing more for a group that is gone for good.

Rules: a group that has workers is not touched.
"""

from __future__ import annotations

import click
import trio

from ..errors import BrokerError, ConfigError, TickError
from ..logs import Redactor
from .buffer_options import BufferAt, buffer_argument
from .options import Number, option

__all__ = ["retire"]


@click.command(short_help="Keep nothing more for a group of workers that is gone for good.")
@buffer_argument
@option("--group", metavar="NAME", required=True, help="The group; trio-ticks lag shows them all.")
@option(
    "--timeout",
    type=Number("seconds", positive=True),
    default=60,
    help="How long the server may take, in seconds.",
)
def retire(*, buffer: BufferAt, group: str, timeout: float) -> None:
    """Keep nothing more in a Redis buffer for a group of workers that is gone for good.

    A tick is kept until every group has acknowledged it, so a group that nobody reads
    fills the buffer. What the other groups have acknowledged is deleted; of the last
    group nothing is. Workers that come back make their group anew, and begin with the
    oldest tick that is there.

    Kafka keeps ticks by the topic's retention, whoever reads them, and ZeroMQ has one
    group: there is nothing to retire.

    URL is the buffer's, as in --buffer of ingest and work, or TRIO_TICKS_BUFFER.

    \b
    Examples:
      trio-ticks retire 'redis://localhost?name=ticks' --group backtest
      TRIO_TICKS_BUFFER=rediss://user:password@host/0 trio-ticks retire --group backtest

    \b
    Exit codes:
      0  the group is gone
      1  it has workers, or there is none; or nobody answers
      2  a bad setting
    """  # noqa: D301 - click needs the very character
    try:
        deleted = trio.run(_retire, buffer, group, timeout)
    except TickError as error:
        error.args = (Redactor(buffer.secrets).text(str(error)),)
        raise error from None
    click.echo(f"{buffer.shown}: the group {group} is gone, {deleted:,} ticks were deleted")


async def _retire(buffer: BufferAt, group: str, timeout_s: float) -> int:
    from ..brokers.redis_streams import RedisStreams

    if not isinstance(buffer.buffer, RedisStreams):
        raise ConfigError(f"{buffer.shown}: only a buffer in Redis keeps ticks for its groups")
    with trio.move_on_after(timeout_s):
        return await buffer.buffer.retire(group)
    raise BrokerError(f"{buffer.shown}: no answer in {timeout_s:g} s", buffer=buffer.shown)
