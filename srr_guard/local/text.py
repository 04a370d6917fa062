"""Stop texts, and pieces of a growing answer that never have to be taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class StopText:
    """Tells when one of the stop texts has just been completed.

    Args:
        decode: From token ids to text.
        stop: The stop texts.
    """

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        # a token has at least one byte; some room for those that decode to nothing
        self._tail = max((len(s.encode()) for s in stop), default=0) + 8

    def __call__(self, ids: list[int]) -> bool:
        """Look at the last tokens of an answer."""
        if not self._stop:
            return False
        tail = self._decode(ids[-self._tail :])
        return any(s in tail for s in self._stop)

    def cut(self, text: str) -> int | None:
        """Where the first stop text begins; None if there is none."""
        return min((at for s in self._stop if (at := text.find(s)) >= 0), default=None)


class TextStream:
    """Cuts a growing answer into pieces.

    The bytes of an unfinished character stay buffered, and an end that may become a stop text.

    Args:
        decode: From token ids to text.
        stop: Texts that end the answer.
        send: Receives the pieces.
    """

    def __init__(self, decode: Decode, stop: Sequence[str], send: Callable[[str], None]) -> None:
        self._decode = decode
        self._stop = stop
        self._send = send
        self._sent = 0

    def push(self, ids: list[int]) -> None:
        """Send what is certain of the answer so far."""
        text = self._decode(ids).rstrip("\ufffd")
        buffered = max((_overlap(text, s) for s in self._stop), default=0)
        self._send_up_to(text, len(text) - buffered)

    def close(self, text: str) -> None:
        """Send the rest of the whole answer."""
        self._send_up_to(text, len(text))

    def _send_up_to(self, text: str, end: int) -> None:
        if end > self._sent:
            self._send(text[self._sent : end])
            self._sent = end


def _overlap(text: str, stop: str) -> int:
    """Length from the first place where `stop` begins, or may have begun, to the end."""
    at = text.find(stop)
    if at >= 0:
        return len(text) - at
    longest = min(len(stop) - 1, len(text))
    return next((k for k in range(longest, 0, -1) if text.endswith(stop[:k])), 0)
