"""Compressed recordings, frame by frame, so that damage costs no more than its frame.

A frame is what zstd calls so, or a member of a gzip file. The recorder writes one a
second, each with a checksum.

Operations wanted: the next piece of data, in order; to go on behind a place that is
damaged; to know how much was skipped, and whether the file ends in the middle.

Plan: the compressed bytes of a frame are kept until its end has been reached and its
checksum was right; only then its data is handed on. If it cannot be decompressed, the
next place is searched that begins like a frame. A frame of more than ``_KEPT`` bytes is
of another program: it is handed on as it comes.

Warning: zstd's own reader ends in silence on a torn file, and a decompressor stops at
the end of the first frame.

Rules: everything blocks on the disk. Memory is bounded, whatever the file holds.
"""

from __future__ import annotations

import zlib
from typing import IO, Any, Final, Protocol, final

from ..errors import ConfigError
from .zstd import load_zstd

__all__ = ["Blocks", "FrameBlocks", "PlainBlocks", "open_blocks"]

_PIECE: Final = 1 << 18
"""Bytes that are read from the file at once."""
_OUT: Final = 1 << 20
"""Bytes that are decompressed at once."""
_KEPT: Final = 1 << 24
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""A frame of zstd's that holds no data begins with another byte before these."""
_GZIP: Final = b"\x1f\x8b\x08"


class Blocks(Protocol):
    """The data of a file, piece by piece."""

    skipped: int
    """Damaged bytes of the file right before the piece that was read last."""
    lost_bytes: int
    """Bytes of the file so far that could not be read."""
    truncated: bool
    """Whether the file ends in the middle, or its end cannot be read."""
    strict: bool
    """Whether data is handed on only if a checksum vouches for it."""

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        ...

    def read(self) -> bytes | None:
        """Return the next piece; ``None`` at the end."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@final
class PlainBlocks:
    """The data of a file that is not compressed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.skipped = 0
        self.lost_bytes = 0
        self.truncated = False
        self.strict = False
        self._file = file

    def read(self) -> bytes | None:
        """Return the next piece; ``None`` at the end."""
        return self._file.read(_OUT) or None

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Decoder(Protocol):
    """Decompresses one frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor for one member, in the manner of zstd's."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


class _Broken(Exception):
    """The frame cannot be decompressed, or its end is missing."""


@final
class FrameBlocks:
    """The data of a compressed file.

    Args:
        file: at its beginning; this object closes it.
        zstd: the module, for a file of zstd's; ``None`` for gzip.
    """

    def __init__(self, file: IO[bytes], zstd: Any = None) -> None:
        self.skipped = 0
        self.lost_bytes = 0
        self.truncated = False
        self.strict = False
        self._file = file
        self._zstd = zstd
        self._magic: Final = _GZIP if zstd is None else _ZSTD
        self._errors: tuple[type[Exception], ...] = (zlib.error,)
        if zstd is not None:
            self._errors = (zstd.ZstdError,)
        self._raw = bytearray()
        """Compressed bytes from the beginning of the frame on."""
        self._fed = 0
        """How many of these the decoder has got."""
        self._decoder: _Decoder | None = None
        """Of the frame that is being read."""
        self._out: list[bytes] = []
        self._out_size = 0
        self._is_passing = False
        """Whether this frame is handed on as it comes, and its bytes are not kept."""
        self._reported = 0
        """What ``lost_bytes`` was at the last piece."""
        self._ended = False

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> bytes | None:
        """Return the next piece; ``None`` at the end.

        Raises:
            OSError: the disk fails.
        """
        while not self._ended:
            lost_before = self.lost_bytes
            try:
                data = self._read_frame()
            except _Broken:
                data = self._salvage()
            if data:
                # What is lost behind salvaged data is told with the next piece.
                self.skipped, self._reported = lost_before - self._reported, lost_before
                return data
        self.skipped = 0
        return None

    def _read_frame(self) -> bytes:
        """Return the data of the frame, or the next piece of a large one."""
        if self._decoder is None:
            if not (self._raw or self._fill()):
                self._ended = True
                return b""
            self._decoder = self._new_decoder()
            self._fed = 0
            self._is_passing = False
        decoder = self._decoder
        while not decoder.eof:
            if decoder.needs_input and self._fed == len(self._raw) and not self._fill():
                raise _Broken
            piece = bytes(self._raw[self._fed : self._fed + _PIECE]) if decoder.needs_input else b""
            self._fed += len(piece)
            try:
                data = decoder.decompress(piece, _OUT)
            except self._errors:
                raise _Broken from None
            self._out.append(data)
            self._out_size += len(data)
            if self._is_passing or self._out_size > _KEPT:
                self._is_passing = True
                if not decoder.eof:
                    del self._raw[: self._fed]
                    self._fed = 0
                    return self._take_out()
        del self._raw[: self._fed - len(decoder.unused_data)]
        self._decoder = None
        return self._take_out()

    def _take_out(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        self._out_size = 0
        return data

    def _new_decoder(self) -> _Decoder:
        if self._zstd is None:
            return _Gunzip()
        decoder: _Decoder = self._zstd.ZstdDecompressor()
        return decoder

    def _fill(self) -> bool:
        data = self._file.read(_PIECE)
        self._raw += data
        return bool(data)

    def _salvage(self) -> bytes:
        """Go to the next place that begins like a frame; return what is worth it here.

        What was decompressed before the damage is as good as any data without a
        checksum: a file of another program's may be one frame as a whole. The
        recorder's own frames hold a second, and are kept whole or not at all.
        """
        self._decoder = None
        data = self._take_out()
        # A frame that reaches to the end of the file may only look torn, since its
        # length is damaged: others may follow inside it.
        self._find_frame()
        return b"" if self.strict else data

    def _find_frame(self) -> None:
        """Throw bytes away until what is left begins like a frame, or the file ends."""
        first = 1
        while True:
            at = self._raw.find(self._magic, first)
            if at >= 0:
                self._skip(at)
                return
            # The file's next bytes may complete a beginning.
            self._skip(max(0, len(self._raw) - len(self._magic) + 1))
            first = 0
            if not self._fill():
                self._skip(len(self._raw))
                self.truncated = self._ended = True
                return

    def _skip(self, count: int) -> None:
        self.lost_bytes += count
        del self._raw[:count]


def open_blocks(file: IO[bytes], path: str) -> Blocks:
    """Return the data of *file*, which is compressed or not.

    Args:
        file: at its beginning.
        path: its name, for errors.

    Raises:
        ConfigError: it is compressed by zstd, which is not installed.
        OSError: the disk fails.
    """
    head = file.read(4)
    file.seek(0)
    if head[:2] == _GZIP[:2]:
        return FrameBlocks(file)
    if head == _ZSTD or (head[1:] == _SKIPPABLE and b"\x50" <= head[:1] <= b"\x5f"):
        try:
            return FrameBlocks(file, load_zstd(f"the recording {path!r}"))
        except ConfigError:
            file.close()
            raise
    return PlainBlocks(file)
