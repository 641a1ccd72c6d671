"""A buffer without a broker, over ZeroMQ.

An ingest has a ROUTER socket, and each worker a DEALER for each ingest. The protocol
between them is in :mod:`~trio_ticks.brokers.zeromq.protocol`; ``hub``, ``dispatch`` and
``lines`` are the ingest's side of it and ``link`` is the worker's, all without I/O;
``sink`` and ``source`` run them on trio.
"""

from .buffer import ZeroMQ
from .dispatch import DeadTick
from .sink import ZeroMQSink
from .source import ZeroMQSource

__all__ = ["DeadTick", "ZeroMQ", "ZeroMQSink", "ZeroMQSource"]
