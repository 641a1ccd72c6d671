"""Workers with a thread or a process each, which take several ticks at a time.

What a batch holds, what goes back of it and which process a symbol belongs to is
decided by the code that does it live: ``workers/leases.py`` and ``channel/homes.py``.
What is left to this module is what threads, processes and the tasks of the workers do
otherwise: hand a batch over, run its ticks one by one, and settle it.

Rules: as in ``events.py``. A worker that settles a batch takes the next one before any
that rests.
"""

from __future__ import annotations

import math
from functools import partial
from heapq import heappush
from itertools import takewhile
from typing import Any, Final, final

from ..channel.homes import Home, HomedLanes
from ..channel.lanes import Lanes
from ..workers.batch import Batch
from ..workers.leases import LATE_S, Leases, ProcessLeases, Take
from .events import Begins, EventLoop, Item, Setting
from .loads import Load, Services

__all__ = ["TIMER_S", "BatchLoop"]

TIMER_S = 0.0005
"""How late a timer of trio's wakes a task on average, in seconds.

The system's are set in whole milliseconds, rounded up. It matters where a tick is late
after 10 ms, and is looked at after 10 ms: else it would be looked at twice."""


@final
class _Worker:
    """A worker, and its batch."""

    __slots__ = ("batch", "home", "is_back", "number", "received_s", "runs", "since", "take")

    def __init__(self, number: int, take: Take, home: Home) -> None:
        self.number = number
        self.take = take
        self.home = home
        """Where its symbols are, if workers have some of their own."""
        self.batch: Batch[Any] | None = None
        self.since = 0.0
        """When it took the batch."""
        self.received_s = 0.0
        """When its thread or process had what there is of the batch."""
        self.runs = False
        """Whether a tick of the batch is in its handler."""
        self.is_back = False
        """Whether the run is over, and on its way back."""


@final
class _Crew:
    """What the channel asks the workers."""

    breaker: Final = None
    tells_gaps: Final = False

    def __init__(self, lanes: Lanes[Any], *, calls_back: bool) -> None:
        self.lanes = lanes
        self.long: Final[dict[int, Batch[Any]]] = {}
        """The batches of more than one tick, by their worker's number.

        The only ones of which ticks can be called back."""
        self._calls_back = calls_back
        self.has_begun = False
        """Whether it is worth looking at the batches again soon."""

    def reserved(self) -> int:
        """Return how many ticks of batches may still go back into the queue."""
        count = 0
        for batch in self.long.values():
            count += len(batch.todo)
        return count

    def anyone_free(self) -> bool:
        """Return False; nobody asks, since no task sleeps here."""
        return False

    def room_wanted(self) -> None:
        """Look at the batches soon: each tick that they begin makes room."""
        self.has_begun |= self._calls_back


@final
class BatchLoop(EventLoop):
    """Plays a load to workers with a thread or a process each; see the module.

    Args:
        load: what comes, and when.
        services: how long the handling of each tick takes, and handing a batch over.
        setting: of the pipeline.
        begins: is told when the handling of each tick begins; ``None``: nobody is.
    """

    def __init__(
        self, load: Load, services: Services, setting: Setting, begins: Begins | None = None
    ) -> None:
        super().__init__(load, services, setting, begins)
        state, ordered = self.state, self._ordered
        self._calls_back = services.executor == "thread"
        self._in_lock = self._calls_back and any(services.busy)
        self._half_s = services.hand_over_s / 2
        self._knows_ends = not (self._in_lock or begins or state.ages)
        """Whether a batch that cannot be called back has ends that nothing changes."""
        self._leases: Leases[Any]
        self._homed: HomedLanes[Any] | None = None
        lanes: Lanes[Any] = Lanes()
        homes = [Home() for _ in range(setting.workers)]
        if self._calls_back:
            self._leases = Leases(state, ordered=ordered, calls_back=True)
        else:
            self._leases = ProcessLeases(state, ordered=ordered)
        if self._calls_back or not ordered:
            takes: list[Take] = [self._leases.take] * len(homes)
        else:
            lanes = homed = self._homed = HomedLanes()
            homed.homes += homes
            takes = [partial(homed.next_tick, home) for home in homes]
        self._workers = [
            _Worker(number, take, home)
            for number, (take, home) in enumerate(zip(takes, homes, strict=True))
        ]
        self._resting = self._workers[::-1]
        self._crew = _Crew(lanes, calls_back=self._calls_back)
        state.attach(self._crew)
        self._next_item = self._next_of_thread if self._calls_back else self._next_of_process

    # What happens

    def _end(self, number: int, now: float) -> bool:
        """Let the worker *number* go on with its batch.

        Returns:
            Whether the batch was settled, so that others may find something to take.
        """
        worker = self._workers[number]
        batch = worker.batch
        assert batch is not None
        if worker.is_back:
            self._settle(worker, batch, now)
            return True
        if worker.runs:
            batch.done += 1
        item = self._next_item(worker, batch, now)
        worker.runs = item is not None
        if item is not None:
            end = self._run(item.number, now)
            if self._is_last(batch):
                # Nothing can change what is left of the batch: its last tick ends, and
                # it comes back.
                batch.done += 1
                batch.began_at.append(end)
                worker.is_back = True
                end += self._half_s
        else:
            batch.began_at.append(now)
            worker.is_back = True
            end = now + self._half_s
        heappush(self._ends, (end, number))
        return False

    def _wake(self, now: float) -> None:
        """Call back what waits behind slow ticks: see :meth:`BatchWork.attend`."""
        self._wakes_at = math.inf
        crew, leases = self._crew, self._leases
        crew.has_begun = False
        for worker in self._workers:
            batch = worker.batch
            if batch is None or not leases.may_be_late(batch):
                continue
            if leases.is_late(batch, now):
                leases.take_back(batch)
            else:
                crew.has_begun = True
        if self._pending:
            self._move_up()
        if self._pending and crew.reserved():
            crew.has_begun = True

    def _take_all(self) -> None:
        """Let each worker that rests take a batch, as long as there is something."""
        state, resting, now = self.state, self._resting, self._clock[0]
        if self._homed is not None:
            self._take_home(self._homed, now)
        else:
            unparked, lanes = self._unparked, state.lanes
            while resting and (unparked or (lanes.ready and lanes.is_ready())):
                worker = resting.pop()
                if not self._lease(worker, now):
                    resting.append(worker)
        if self._crew.has_begun and self._wakes_at == math.inf:
            self._wakes_at = now + LATE_S + TIMER_S

    def _take_home(self, homed: HomedLanes[Any], now: float) -> None:
        """Put the ticks of the buffer into lanes, and let their homes take them."""
        state, resting = self.state, self._resting
        while True:
            if self._unparked:
                homed.take_in(state.buffer, self._taking)
            ready = [each for each in resting if each.home.ready and homed.is_ready_at(each.home)]
            if not ready:
                return
            again = bool(self._pending)
            for worker in ready:
                resting.remove(worker)
                if not self._lease(worker, now):
                    resting.append(worker)
                    again = True
            if not again:
                return  # nothing has moved up, and who found something is at work

    # A batch

    def _lease(self, worker: _Worker, now: float) -> bool:
        """Let *worker* take a batch and hand it over; tell whether there was one."""
        leases = self._leases
        size = leases.size(len(self._workers), all_busy=not self._resting)
        batch, _gaps = leases.lease(worker.take, size)
        if batch is None:
            if self._pending:
                self._move_up()
            return False
        worker.batch, worker.since = batch, now
        if self._calls_back and len(batch.items) > 1:
            self._crew.long[worker.number] = batch
            self._crew.has_begun = True
        if self._pending:
            self._move_up()
        self._hand_over(worker, batch, now)
        return True

    def _hand_over(self, worker: _Worker, batch: Batch[Any], now: float) -> None:
        """Hand what there is of *batch* over."""
        batch.begin()
        if self._pending:
            self._move_up()
        batch.sent_at = now
        worker.runs = worker.is_back = False
        ages = self.state.ages
        if ages is not None and not self._calls_back:
            pairs = zip(batch.items, batch.arrivals, strict=True)
            old = takewhile(lambda pair: ages.life_s(*pair, now) < 0, pairs)
            batch.done = sum(1 for _ in old)
            batch.stale = list(range(batch.done))
            if batch.stale:
                self._settle(worker, batch, now)
                return
        worker.received_s = received_s = now + self._half_s
        if self._knows_ends and not (self._calls_back and len(batch.items) > 1):
            self._run_whole(worker, batch, received_s)
        else:
            heappush(self._ends, (received_s, worker.number))

    def _run_whole(self, worker: _Worker, batch: Batch[Any], now: float) -> None:
        """Run all of *batch*, which begins at *now*: the next event is that it is back.

        As :meth:`_end` does it tick by tick where something may come between them.
        """
        services, lags, times, turns = self._services, self._lags, self._times, batch.began_at
        for item in batch.items:
            turns.append(now)
            number = item.number
            place = services.places[number]
            lags[number] = now - times[number]
            now += services.waits[place]
            if services.busy:
                now += services.busy[place]
        turns.append(now)
        batch.first = None
        batch.done = len(batch.items)
        worker.is_back = True
        heappush(self._ends, (now + self._half_s, worker.number))

    def _next_of_thread(self, _worker: _Worker, batch: Batch[Any], now: float) -> Item | None:
        """Take the next tick out of *batch* as its thread does: see runners.py."""
        ages, todo = self.state.ages, batch.todo
        while True:
            if batch.stale and not (todo and self._taking.is_stale(*todo[0])):
                return None
            found = batch.first or (todo.popleft() if todo else None)
            if found is None:
                return None
            batch.first = None
            batch.began_at.append(now)
            item: Item = found[0]
            if ages is None or not self._taking.is_stale(*found):
                return item
            batch.stale.append(batch.done)
            batch.done += 1

    def _next_of_process(self, worker: _Worker, batch: Batch[Any], now: float) -> Item | None:
        """Return the next tick of *batch* as its process does: see child.py."""
        ages, index = self.state.ages, batch.done
        if index == len(batch.items):
            return None
        item: Item = batch.items[index]
        batch.began_at.append(now)
        if ages is not None:
            life_s = ages.life_s(item, batch.arrivals[index], batch.sent_at)
            if now - worker.received_s > life_s:
                return None
        return item

    def _is_last(self, batch: Batch[Any]) -> bool:
        """Tell whether *batch* is sure to end with the tick that has just begun."""
        if self._calls_back:
            return not self._leases.may_be_late(batch)
        return batch.done == len(batch.items) - 1

    def _run(self, number: int, now: float) -> float:
        """Begin with the tick *number*; return when its handling ends."""
        services = self._services
        place = services.places[number]
        end = now + services.waits[place]
        if services.busy:
            seconds = services.busy[place]
            end += seconds
            if self._in_lock:
                begin = max(self._busy_until, now)
                self._busy_until = begin + seconds
                end += begin - now
        self._lags[number] = now - self._times[number]
        if self._begins is not None:
            self._begins(number, now, end)
        return end

    def _settle(self, worker: _Worker, batch: Batch[Any], now: float) -> None:
        """Count what was handled of *batch*; go on with the rest, or another one."""
        leases, done, turns = self._leases, batch.done, batch.began_at
        self._handled += done - len(batch.stale)
        if batch.stale:
            leases.drop_stale(batch, [batch.items[index] for index in batch.stale], ())
            done = 0
        elif done:
            leases.learn(batch, done, now - batch.sent_at - (turns[-1] - turns[0]))
        if done < len(batch.items):
            batch.settle()
            self._hand_over(worker, batch, now)
            return
        worker.batch = None
        if self._crew.long:
            self._crew.long.pop(worker.number, None)
        self._busy_s += now - worker.since
        leases.release(batch)
        if self._pending:
            self._move_up()
        if not self._is_ready_for(worker) or not self._lease(worker, now):
            self._resting.append(worker)

    def _is_ready_for(self, worker: _Worker) -> bool:
        """Tell whether there is anything that *worker* may try to take."""
        if self._homed is not None:
            return self._homed.is_ready_at(worker.home)
        return bool(self._unparked) or self.state.lanes.is_ready()

    def _move_up(self) -> None:
        """Let in what waits for room; ask first whether anything does."""
        self._taking.move_up()
        if self._homed is not None:
            self._homed.take_in(self.state.buffer, self._taking)
