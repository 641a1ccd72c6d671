"""A local exchange, for trying out pipelines and for tests.

It is a WebSocket server on 127.0.0.1 that speaks the flat protocol or that of a venue,
with realistic ticks, recordings, and faults. Nothing here is needed to run a real feed.
"""

from .config import DEFAULT_SYMBOLS, ExchangeConfig, Settings
from .limits import ClientLimits
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
