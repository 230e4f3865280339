"""Random patches: what turns one state into another, over pages so small that many are touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from coatcheck_sidecar.core import pages, patch_delta
from coatcheck_sidecar.core.patch import apply_patch

PAGE_BYTES = 16


@contextmanager
def small_pages() -> Iterator[None]:
    """Pages of 16 bytes; a patch of any state goes as a patch delta."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE_BYTES", PAGE_BYTES)
        patch.setattr(patch_delta, "STATE_BYTES_MIN", 0)
        patch.setattr(patch_delta, "PAGE_BYTES", PAGE_BYTES)
        patch.setattr(patch_delta, "TOUCHED_SHARE_MAX", 1_000)
        yield


@dataclass(frozen=True)
class Change:
    """`ranges` of `old` overwritten, and cut or extended, make `new`."""

    old: bytes
    new: bytes
    ranges: list[tuple[int, int]]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any patch that is legal: also one that leaves a gap, or writes nothing."""
    old = draw(st.binary(max_size=100))
    length = draw(st.one_of(st.just(len(old)), st.integers(0, 120)))
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=8)))
    ranges = [(at, to - at) for at, to in zip(cuts[::2], cuts[1::2], strict=False)]
    data = draw(st.binary(min_size=sum(n for _, n in ranges), max_size=sum(n for _, n in ranges)))
    return Change(old, apply_patch(old, length, ranges, data), ranges)
