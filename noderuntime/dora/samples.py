"""What `Node.send_output_raw` returns: a buffer to fill, which is sent when its block ends or `send` is called."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

_SENT = "Cannot access buffer: the sample has already been sent"


class SampleHandler:
    """`size` zero bytes to be written. With `with handler as buffer:`, they are sent at the end of the block, unless
    it raises; otherwise by `send()`. All views of them must be released before.
    """

    def __init__(self, size: int, send: Callable[[memoryview], None]) -> None:
        self._buffer: bytearray | None = bytearray(size)
        self._send = send

    def as_buffer(self) -> bytearray:
        """The buffer: any number of memoryviews may be made of it. RuntimeError once it is sent."""
        if self._buffer is None:
            raise RuntimeError(_SENT)
        return self._buffer

    def as_memoryview(self) -> memoryview:
        """A writable view of the buffer. RuntimeError once it is sent."""
        return memoryview(self.as_buffer())

    def send(self) -> None:
        """Send what was written. RuntimeError on a second call, and while a view of the buffer is open."""
        buffer = self._buffer
        if buffer is None:
            raise RuntimeError("Sample has already been sent")
        try:
            buffer.append(0)  # a bytearray of which there are views cannot grow
        except BufferError:
            raise RuntimeError(
                "Failed to send: Cannot send: buffer view(s) are still open. "
                "Release all memoryview / numpy references before calling send()."
            ) from None
        self._buffer = None
        with memoryview(buffer) as whole, whole[:-1] as sample:
            self._send(sample)

    def __enter__(self) -> bytearray:
        return self.as_buffer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._buffer = None
        else:
            self.send()
