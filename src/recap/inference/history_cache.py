"""`HistoryCache`: encoded histories of users between requests, within a bound of memory."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from recap.model.histories.encoder import Encoded

_ENTRY_BYTES = 512
"""What an entry takes besides the numbers of its tensors, roughly."""


class HistoryCache:
    """The histories that were used last, at most `max_bytes`; safe in several threads.

    A key names the events, so a history that changes has another key, and what is returned is what computing it would
    give, bit for bit. One larger than the bound is not kept.

        >>> cache = HistoryCache(max_bytes=1 << 20)
        >>> cache.recall(b"key", lambda: (torch.ones(1000),))[0].shape, cache.hits, cache.misses
        (torch.Size([1000]), 0, 1)
        >>> cache.recall(b"key", lambda: (torch.ones(1000),))[0].shape, cache.hits, cache.bytes
        (torch.Size([1000]), 1, 4512)
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self.bytes = 0
        """Size of what is kept."""
        self._entries: OrderedDict[bytes, Encoded] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, key: bytes, encode: Callable[[], Encoded]) -> Encoded:
        """The encoded history of `key`; `encode` computes it if it is not kept. Two threads may compute the same."""
        with self._lock:
            encoded = self._entries.get(key)
            if encoded is not None:
                self.hits += 1
                self._entries.move_to_end(key)
                return encoded
            self.misses += 1
        encoded = encode()
        with self._lock:
            if key not in self._entries and _bytes(encoded) <= self.max_bytes:
                self._entries[key] = encoded
                self.bytes += _bytes(encoded)
                while self.bytes > self.max_bytes:
                    self.bytes -= _bytes(self._entries.popitem(last=False)[1])
        return encoded


def _bytes(encoded: Encoded) -> int:
    return _ENTRY_BYTES + sum(tensor.nbytes for tensor in encoded)
