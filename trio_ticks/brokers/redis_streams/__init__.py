"""A buffer between processes in Redis Streams: Redis 6.2 or newer, or Valkey.

Needs hiredis: ``pip install 'trio-ticks[redis]'``.
"""

from .looking import BufferLook, GroupLook, look
from .settings import RedisStreams

__all__ = ["BufferLook", "GroupLook", "RedisStreams", "look"]
