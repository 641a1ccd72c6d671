"""The options of a pipeline: one table, of which each command takes its part.

Rules: an option has the name and the default of the argument of
:func:`~trio_ticks.open_pipeline` that it sets. An option that would do nothing is an
error, never silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import attrs
import click

from ..channel.freshness import MaxAge
from ..control.scaling import AutoWorkers
from ..errors import ConfigError
from ..handlers.breaker import Breaker
from ..handlers.dead_letters import DeadLetterFile
from ..handlers.retry import Retry
from ..overflow import (
    Block,
    Conflate,
    DropNewest,
    DropOldest,
    Fail,
    Overflow,
    OverflowStrategy,
    Throttle,
)
from ..ticks import Bar, BookUpdate, Tick, Trade
from .loading import load_callback, load_exceptions
from .options import SECONDS, Names, Number, ParamType, all_of, grouped, option

__all__ = ["STRATEGIES", "OverflowName", "PipelineOptions", "WorkerCount", "pipeline_options"]

Command = TypeVar("Command", bound=Callable[..., Any])
Half = Literal["both", "ingest", "work"]

STRATEGIES: Mapping[str, Callable[[float], OverflowStrategy]] = {
    "block": lambda _patience: Block(),
    "drop-newest": DropNewest,
    "drop-oldest": lambda _patience: DropOldest(),
    "conflate": lambda _patience: Conflate(),
    "fail": lambda _patience: Fail(),
}
KINDS: Mapping[str, type] = {"tick": Tick, "trade": Trade, "book": BookUpdate, "bar": Bar}
_SOME_PER_SYMBOL = ("drop-newest", "drop-oldest")


class WorkerCount(Number):
    """A number of workers, two bounds such as ``2-16``, or ``auto``."""

    def __init__(self) -> None:
        super().__init__("n|min-max|auto", least=1, whole=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, AutoWorkers):
            return value
        least, dash, most = str(value).partition("-")
        if not (dash and least):
            return super().convert(value, param, ctx)
        try:
            return AutoWorkers(
                int(super().convert(least, param, ctx)), int(super().convert(most, param, ctx))
            )
        except ConfigError as error:
            self.fail(f"{error}; write it like 2-16.", param, ctx)


class OverflowName(ParamType):
    """A strategy by name, or one for each kind of message: ``tick=...,trade=...``."""

    name = "|".join(STRATEGIES)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | dict[str, str]:
        if isinstance(value, dict):
            pairs = {str(kind): str(name) for kind, name in value.items()}
        elif "=" not in str(value):
            return self._known(str(value), STRATEGIES, "strategy", param, ctx)
        else:
            parts = [part.partition("=") for part in str(value).split(",")]
            pairs = {kind.strip(): name.strip() for kind, _, name in parts}
        return {
            self._known(kind, KINDS, "kind of message", param, ctx): self._known(
                name, STRATEGIES, "strategy", param, ctx
            )
            for kind, name in pairs.items()
        }

    def _known(
        self,
        word: str,
        words: Mapping[str, object],
        what: str,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        if word not in words:
            self.fail(f"{word!r} is no {what}; there are {', '.join(words)}.", param, ctx)
        return word


@attrs.frozen(slots=True, kw_only=True)
class PipelineOptions:
    """The values of a pipeline's options; those that a command lacks have defaults."""

    workers: int | Literal["auto"] | AutoWorkers = 4
    maxsize: int = 1000
    write_timeout: float = 1.0
    overflow: str | dict[str, str] | None = None
    max_per_symbol: int | None = None
    throttle: bool = False
    lag_threshold: int | None = None
    ordering: Literal["symbol", "none"] = "symbol"
    executor: str = "auto"
    max_age: float | None = None
    max_age_since: Literal["arrival", "timestamp"] | None = None
    shutdown_timeout: float = 5.0
    handler_timeout: float | None = None
    retry_on: tuple[str, ...] | None = None
    retry_attempts: int | None = None
    retry_initial: float | None = None
    retry_maximum: float | None = None
    breaker_failures: int | None = None
    breaker_pause: float | None = None
    on_crash: Literal["fail", "retry"] = "fail"
    dead_letters: str | None = None
    on_error: str | None = None
    on_gap: str | None = None
    on_feed: str | None = None
    on_feed_timeout: float = 5.0

    @classmethod
    def take(cls, parameters: dict[str, Any]) -> PipelineOptions:
        """Take the parameters of this class out of a command's *parameters*."""
        names = [field.name for field in attrs.fields(cls) if field.name in parameters]
        return cls(**{name: parameters.pop(name) for name in names})

    def settings(self, *, as_json: bool = False) -> dict[str, Any]:
        """Return the keyword arguments of :func:`~trio_ticks.open_pipeline`.

        Args:
            as_json: whether standard output is for a report, so that what a module
                prints when it is imported must not go there.

        Raises:
            click.BadParameter: a function or an exception that an option names is not
                there.
            ConfigError: options do not belong together.
        """
        same = (
            *("workers", "maxsize", "write_timeout", "ordering", "executor", "shutdown_timeout"),
            *("handler_timeout", "on_crash", "on_feed_timeout"),
        )
        settings: dict[str, Any] = {name: getattr(self, name) for name in same}
        settings["lag_threshold"] = self.lag_threshold or max(1, self.maxsize // 2)
        settings["overflow"] = self._overflow()
        settings["max_age"] = self._max_age()
        settings["retry"] = self._retry(as_json)
        settings["breaker"] = self._breaker()
        for name in ("on_error", "on_gap", "on_feed"):
            where = getattr(self, name)
            if where is not None:
                where = load_callback(where, f"--{name.replace('_', '-')}", as_json=as_json)
            settings[name] = where
        if self.dead_letters is not None:
            if self.on_error is not None:
                raise ConfigError(
                    "--dead-letters and --on-error exclude each other: both take what failed; "
                    "let your function write to a trio_ticks.DeadLetterFile as well"
                )
            try:
                settings["on_error"] = DeadLetterFile(self.dead_letters)
            except ConfigError as error:
                raise ConfigError(f"--dead-letters: {error}") from error
        return settings

    def _overflow(self) -> Overflow | None:
        if self.overflow is None and self.max_per_symbol is None and not self.throttle:
            return None  # the pipeline's default, which depends on the feed
        names = self.overflow or "drop-newest"
        policy: Any = (
            self._strategy(names)
            if isinstance(names, str)
            else {KINDS[kind]: self._strategy(name) for kind, name in names.items()}
        )
        if self.max_per_symbol is not None and not any(
            name in _SOME_PER_SYMBOL
            for name in ([names] if isinstance(names, str) else names.values())
        ):
            raise ConfigError(
                "--max-per-symbol is for --overflow drop-newest and drop-oldest: no other "
                "strategy drops by symbol"
            )
        return Throttle(policy) if self.throttle else policy

    def _strategy(self, name: str) -> OverflowStrategy:
        strategy = STRATEGIES[name](self.write_timeout)
        if self.max_per_symbol is not None and isinstance(strategy, DropNewest | DropOldest):
            strategy = attrs.evolve(strategy, max_per_symbol=self.max_per_symbol)
        return strategy

    def _max_age(self) -> MaxAge | None:
        if self.max_age is None:
            if self.max_age_since is not None:
                raise ConfigError("--max-age-since needs --max-age, the greatest age in seconds")
            return None
        return MaxAge(self.max_age, self.max_age_since or "arrival")

    def _retry(self, as_json: bool) -> Retry | None:
        given = {
            "attempts": self.retry_attempts,
            "initial_s": self.retry_initial,
            "maximum_s": self.retry_maximum,
        }
        more: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.retry_on is None:
            if more:
                raise ConfigError(
                    "the other --retry options need --retry-on, the exceptions that another try "
                    "may cure, for example --retry-on TimeoutError,OSError"
                )
            return None
        if "maximum_s" not in more and "initial_s" in more:
            more["maximum_s"] = max(more["initial_s"], attrs.fields(Retry).maximum_s.default)
        return Retry(load_exceptions(self.retry_on, "--retry-on", as_json=as_json), **more)

    def _breaker(self) -> Breaker | None:
        given = {"failures": self.breaker_failures, "pause_s": self.breaker_pause}
        given = {name: value for name, value in given.items() if value is not None}
        return Breaker(**given) if given else None  # type: ignore[arg-type]  # by name


_QUEUE, _WORKERS, _FAILURES = (
    grouped(title)
    for title in ("Pipeline: the queue", "Pipeline: the workers", "Pipeline: failures, losses")
)


_QUEUE_OF_INGEST = (
    option(
        "--maxsize",
        cls=_QUEUE,
        type=Number("ticks", least=1, whole=True),
        default=1000,
        help="Ticks that may wait: burst seconds x rate x safety factor.",
    ),
    option(
        "--overflow",
        cls=_QUEUE,
        type=OverflowName(),
        help="What happens when the queue is full; or by kind of message, such as "
        f"tick=conflate,trade=block ({', '.join(KINDS)}).  [default: drop-newest, but a feed "
        "that can wait, such as a recording at full speed, waits]",
    ),
    option(
        "--write-timeout",
        cls=_QUEUE,
        type=SECONDS,
        default=1,
        help="Patience for an episode of pressure before drop-newest drops, in seconds.",
    ),
    option(
        "--max-per-symbol",
        cls=_QUEUE,
        type=Number("ticks", least=1, whole=True),
        help="Ticks of one symbol that may wait, so that a hot one leaves room (drop-newest, "
        "drop-oldest).  [default: no limit]",
    ),
    option(
        "--throttle",
        cls=_QUEUE,
        is_flag=True,
        help="Ask the feed for no more than the workers take; --overflow where that is not enough.",
    ),
    option(
        "--lag-threshold",
        cls=_QUEUE,
        type=Number("ticks", least=1, whole=True),
        help="Queued ticks that bring a warning.  [default: half of --maxsize]",
    ),
)
_AGE = (
    option(
        "--max-age",
        cls=_QUEUE,
        type=Number("seconds", positive=True),
        help="Skip ticks that are older than this, in seconds, when their turn comes.  "
        "[default: none is too old]",
    ),
    option(
        "--max-age-since",
        cls=_QUEUE,
        type=click.Choice(["arrival", "timestamp"]),
        help="What the age counts from: the arrival here, or the tick's own timestamp.  "
        "[default: arrival]",
    ),
)
_OF_WORK = (
    option(
        "--workers",
        cls=_WORKERS,
        type=WorkerCount(),
        default=4,
        env=("WORKER_COUNT",),
        help="Ticks that are handled at once, at most; auto: as many as the load needs, 2-16: "
        "between these.",
    ),
    option(
        "--executor",
        cls=_WORKERS,
        type=click.Choice(["auto", "loop", "thread", "process"]),
        default="auto",
        help="Where the strategy runs; auto: async def in the event loop, plain def in threads. "
        "process is for one that computes: each worker is a process.",
    ),
    option(
        "--ordering",
        cls=_WORKERS,
        type=click.Choice(["symbol", "none"]),
        default="symbol",
        help="symbol: ticks of one symbol are handled one at a time, in order.",
    ),
    option(
        "--handler-timeout",
        cls=_WORKERS,
        type=Number("seconds", positive=True),
        help="How long the strategy may take for a tick, in seconds; then the tick has failed. A "
        "thread cannot be stopped: its stack is logged.  [default: no limit]",
    ),
    option(
        "--retry-on",
        cls=_FAILURES,
        type=Names(),
        metavar="NAME,...",
        help="Exceptions that another try may cure, like TimeoutError or mine:Busy.  "
        "[default: none is tried again]",
    ),
    option(
        "--retry-attempts",
        cls=_FAILURES,
        type=Number("n", least=2, whole=True),
        help="Tries in all, the first one included.  [default: 3]",
    ),
    option(
        "--retry-initial",
        cls=_FAILURES,
        type=Number("seconds"),
        help="The longest wait before the second try, in seconds.  [default: 0.05]",
    ),
    option(
        "--retry-maximum",
        cls=_FAILURES,
        type=Number("seconds"),
        help="The wait doubles with each try, up to this, in seconds.  [default: 1]",
    ),
    option(
        "--breaker-failures",
        cls=_FAILURES,
        type=Number("n", least=1, whole=True),
        help="Failures of one symbol in a row that set it aside.  [default: none is set aside; "
        "with --breaker-pause 5]",
    ),
    option(
        "--breaker-pause",
        cls=_FAILURES,
        type=Number("seconds", positive=True),
        help="How long it is set aside, in seconds.  [default: with --breaker-failures 30]",
    ),
    option(
        "--on-crash",
        cls=_FAILURES,
        type=click.Choice(["fail", "retry"]),
        default="fail",
        help="What becomes of the tick in which a worker process ended (--executor process).",
    ),
    option(
        "--dead-letters",
        cls=_FAILURES,
        type=click.Path(dir_okay=False),
        help="Write ticks that failed to this file, a line of JSON each.  [default: none]",
    ),
    option(
        "--on-error",
        cls=_FAILURES,
        metavar="MODULE:NAME",
        help="Your function for failed ticks: takes the tick and the exception.",
    ),
    option(
        "--on-gap",
        cls=_FAILURES,
        metavar="MODULE:NAME",
        help="Your function for losses: takes a Gap, before the symbol's next tick.",
    ),
)
_OF_FEED = (
    option(
        "--on-feed",
        cls=_FAILURES,
        metavar="MODULE:NAME",
        help="Your function for connections lost and back, and symbols that are silent: takes a "
        "FeedEvent.",
    ),
    option(
        "--on-feed-timeout",
        cls=_FAILURES,
        type=SECONDS,
        default=5,
        help="How long it may take for an event, in seconds.",
    ),
)
_SHUTDOWN = option(
    "--shutdown-timeout",
    cls=_WORKERS,
    type=Number("seconds"),
    default=5,
    help="How long the queue may take to drain at the end, in seconds.",
)


_OF_HALF: Mapping[Half, tuple[Callable[[Any], Any], ...]] = {
    "both": (*_QUEUE_OF_INGEST, *_AGE, *_OF_WORK, *_OF_FEED, _SHUTDOWN),
    "ingest": (*_QUEUE_OF_INGEST, *_AGE, *_OF_FEED, _SHUTDOWN),
    "work": (*_AGE, *_OF_WORK, _SHUTDOWN),
}
"""What each half has a use for; the order is that of the help."""


def pipeline_options(half: Half = "both") -> Callable[[Command], Command]:
    """Return the options of a pipeline, or of one half of it.

    Args:
        half: ``"ingest"`` where no handler runs, ``"work"`` where there is no feed.
    """
    return all_of(_OF_HALF[half])
