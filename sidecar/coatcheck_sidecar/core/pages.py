"""A check of a whole state that follows a change by what the change touches.

The page sum of a state is, modulo 2**64, the sum over its pages of 4 KiB of BLAKE2b-64 of the
page, salted with the page's number: no page can be altered, left out, moved or cut short unseen.
Since it is a sum, a changed state's is that of the state before, less the pages that were touched,
plus what they became.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

PAGE_BYTES: Final = 4_096
"""Part of the format. As the client's patches have it, so that a range touches no page in vain."""
SUM_BYTES: Final = 8
"""Of a page's digest: a damage passes once in 2**64 times."""
SUM_MODULUS: Final = 1 << (8 * SUM_BYTES)

Ranges = Sequence[tuple[int, int]]
"""`(offset, length)`, ascending, not overlapping."""


def page_sum(state: bytes, pages: Iterable[int] | None = None) -> int:
    """The sum over `pages` (all, if `None`); one that the state does not have counts 0."""
    view, total = memoryview(state), 0
    if pages is None:
        pages = range(-(-len(view) // PAGE_BYTES))
    for number in pages:
        page = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        if page:
            digest = blake2b(page, digest_size=SUM_BYTES, salt=number.to_bytes(SUM_BYTES, "little"))
            total += int.from_bytes(digest.digest(), "little")
    return total % SUM_MODULUS


def touched_pages(ranges: Ranges, *, lengths: tuple[int, int]) -> list[range]:
    """The pages that may differ by a write of `ranges` and a change of length; ascending."""
    shorter, longer = sorted(lengths)
    touched: list[range] = []
    low = 0
    for at, size in sorted((*ranges, (shorter, longer - shorter))):
        if size == 0:
            continue
        pages = range(max(low, at // PAGE_BYTES), (at + size - 1) // PAGE_BYTES + 1)
        if pages:
            touched.append(pages)
            low = pages.stop
    return touched


class Paged:
    """A state, and its page sum once somebody asked for it."""

    __slots__ = ("_sum", "data")

    def __init__(self, data: bytes, page_sum: int | None = None) -> None:
        """`page_sum`, if it is known, is right."""
        self.data = data
        self._sum = page_sum

    @property
    def has_sum(self) -> bool:
        """Asking for the sum costs nothing."""
        return self._sum is not None

    @property
    def page_sum(self) -> int:
        """Of all pages; the first time it takes 1.5 ms a megabyte."""
        if self._sum is None:
            self._sum = page_sum(self.data)
        return self._sum

    def become(self, data: bytes, ranges: Ranges) -> "Paged":
        """`data`, which differs in `ranges` and in its length alone; its sum is made from this."""
        less = more = 0
        for pages in touched_pages(ranges, lengths=(len(self.data), len(data))):
            less += page_sum(self.data, pages)
            more += page_sum(data, pages)
        return Paged(data, (self.page_sum - less + more) % SUM_MODULUS)
