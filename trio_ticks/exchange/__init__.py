"""A local exchange: a WebSocket server on 127.0.0.1 that speaks the flat protocol, with realistic ticks, recordings, and faults.

For trying out pipelines and for tests; nothing here is needed to run a real feed.
"""

from .config import DEFAULT_SYMBOLS, ClientLimits, ExchangeConfig, Settings
from .market import Arrivals, Market
from .server import Exchange, open_exchange, serve_exchange

__all__ = [
    "DEFAULT_SYMBOLS",
    "Arrivals",
    "ClientLimits",
    "Exchange",
    "ExchangeConfig",
    "Market",
    "Settings",
    "open_exchange",
    "serve_exchange",
]
