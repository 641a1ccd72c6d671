"""``trio-ticks lag``: how far the workers of a buffer are behind, asked from outside.

Rules: nothing is changed in the buffer. The exit code alone is enough for a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import trio

from ..brokers import BufferView, GroupView, look
from ..errors import ConfigError, TickError
from ..logs import Redactor, one_line
from ..observability.fetch import FetchError, HttpAddress, fetch
from ..observability.remote import MOST_PIPELINES, Samples, read_answer
from .buffer_options import BufferAt, buffer_argument
from .options import Number, option
from .report import json_line

__all__ = ["lag", "lag_table"]

_TOO_MUCH = 1
_MOST_NAME = 60
"""The longest name of a group or a worker that is shown, in characters."""


@click.command(short_help="Show how far the workers of a buffer are behind.")
@buffer_argument
@option(
    "--max-lag",
    type=Number("ticks", whole=True),
    help="Exit with 1 if a group is further behind than that, in ticks "
    "(of Kafka: in records, unless pack=1).",
)
@option(
    "--max-lag-seconds",
    type=Number("seconds"),
    help="Exit with 1 if a group's oldest tick has waited for longer, where the broker says it.",
)
@option("--group", metavar="NAME", help="Look at this group of workers alone.  [default: all]")
@option(
    "--metrics",
    multiple=True,
    metavar="HOST:PORT",
    help="For ZeroMQ, which has no broker to ask: where its ingests serve their metrics; "
    "may be given again.",
)
@option(
    "--timeout",
    type=Number("seconds", positive=True),
    default=10,
    help="How long the broker may take, in seconds.",
)
@option("--json", is_flag=True, help="Write one JSON object.")
def lag(
    *,
    buffer: BufferAt,
    max_lag: int | None,
    max_lag_seconds: float | None,
    group: str | None,
    metrics: tuple[str, ...],
    timeout: float,
    **parameters: bool,
) -> int:
    """Show how far the workers of a buffer are behind: in ticks and seconds, by group,
    with who holds how many shards, and the dead letters.

    URL is the buffer's, as in --buffer of ingest and work, or TRIO_TICKS_BUFFER.

    \b
    Examples:
      trio-ticks lag 'redis://localhost?name=ticks'
      trio-ticks lag kafka://localhost:9092/ticks --max-lag 10000 || page-someone
      trio-ticks lag --json | jq '.groups[0].lag'
      trio-ticks lag zmq+tcp://localhost:5555 --metrics localhost:9464

    \b
    Exit codes:
      0  the lag is shown, and is within --max-lag and --max-lag-seconds
      1  it is not; or nobody answers, or there is no such buffer
      2  a bad setting
    """  # noqa: D301 - click needs the very character
    try:
        view = trio.run(_ask, buffer, metrics, timeout)
    except TickError as error:
        error.args = (Redactor(buffer.secrets).text(str(error)),)
        raise error from None
    groups = [each for each in view.groups if group is None or each.name == group]
    if group is not None and not groups:
        known = ", ".join(each.name for each in view.groups) or "none yet"
        raise ConfigError(f"{view.buffer} has no group {group!r}; it has: {known}")
    if parameters["json"]:
        click.echo(json_line({**view.to_dict(), "lag": _largest(groups, view)}))
    else:
        click.echo(lag_table(view, groups))
    too_much = max_lag is not None and _largest(groups, view) > max_lag
    oldest_s = max((each.lag_s or 0.0 for each in groups), default=0.0)
    too_old = max_lag_seconds is not None and oldest_s > max_lag_seconds
    return _TOO_MUCH if too_much or too_old else 0


def _largest(groups: Sequence[GroupView], view: BufferView) -> int:
    """Return the largest lag; without a group, all in the buffer waits for one."""
    return max((each.lag for each in groups), default=view.used or 0)


async def _ask(buffer: BufferAt, metrics: tuple[str, ...], timeout_s: float) -> BufferView:
    if not metrics:
        return await look(buffer.buffer, timeout_s)
    under_way = 0
    for each in metrics:
        url = each if "://" in each else f"http://{each}"
        address = HttpAddress.parse(url)
        if address.target == "/":
            address = HttpAddress.parse(f"{url.rstrip('/')}/metrics")
        try:
            text = (await fetch(address, timeout_s=timeout_s)).decode("utf-8", "replace")
            answer = read_answer(text)
            if answer.more:
                raise FetchError(f"it serves more than {MOST_PIPELINES} pipelines")
            under_way += _under_way(answer.pipelines.values())
        except FetchError as error:
            raise TickError(f"{address.shown}: {error}") from None
    group = GroupView(name="workers", lag=under_way)
    return BufferView(buffer=buffer.shown, used=under_way, groups=(group,))


def _under_way(pipelines: Iterable[Samples]) -> int:
    """Return how many ticks the ingests among *pipelines* have under way.

    Raises:
        FetchError: there is none among them.
    """
    halves = [each if each.half == "ingest" else each.ingest for each in pipelines]
    ingests = [each for each in halves if each is not None]
    if not ingests:
        raise FetchError("these are the metrics of no ingest, which alone knows what is under way")
    return sum(each.count("in_flight_ticks") for each in ingests)


def lag_table(view: BufferView, groups: Sequence[GroupView]) -> str:
    used = "?" if view.used is None else f"{view.used:,}"
    size = "" if view.maxsize is None else f" of {view.maxsize:,}"
    dead = "" if view.dead is None else f", {view.dead:,} dead letters"
    rows = [("group", "lag", "oldest", "fetched", "shards by worker")]
    rows += [
        (
            one_line(each.name, _MOST_NAME),
            f"{each.lag:,} {each.unit}",
            "-" if each.lag_s is None else f"{each.lag_s:,.1f} s",
            "-" if each.pending is None else f"{each.pending:,}",
            _holders(each),
        )
        for each in groups
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [one_line(view.buffer), f"  {used}{size} ticks in it{dead}"]
    if not groups:
        return "\n".join([*lines, "  no workers have been there yet"])
    table = [
        "  "
        + "  ".join(
            [
                row[0].ljust(widths[0]),
                *(row[column].rjust(widths[column]) for column in (1, 2, 3)),
                row[4],
            ]
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *table])


def _holders(group: GroupView) -> str:
    if group.holders is None:
        return "-"
    holders = group.holders.items()
    return ", ".join(f"{one_line(name, _MOST_NAME)} {count}" for name, count in holders) or "nobody"
