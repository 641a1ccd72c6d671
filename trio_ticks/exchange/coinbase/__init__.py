"""A local Coinbase, Exchange or Advanced Trade, for trying out pipelines and for tests.

It is a WebSocket server on 127.0.0.1 with a made-up market or a recording, with the
venue's answers, refusals and limits, and with faults that are switched on by name.
"""

from .config import CoinbaseConfig, CoinbaseSettings
from .faults import FAULTS
from .server import CoinbaseExchange, open_coinbase_exchange

__all__ = [
    "FAULTS",
    "CoinbaseConfig",
    "CoinbaseExchange",
    "CoinbaseSettings",
    "open_coinbase_exchange",
]
