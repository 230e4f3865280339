"""Names of objects: what every store takes, so that a run can move from one to another."""

import re
from typing import Final

NAME_BYTES_MAX: Final = 1024
"""S3's limit for a whole key; ours leaves the prefix of the URL out of account."""

SEGMENT_BYTES_MAX: Final = 255
"""What file systems allow between two slashes."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_PARTIAL: Final = re.compile(r"[A-Za-z0-9._-]*")


def check_name(name: str) -> None:
    """Raise `ValueError` unless `name` is safe in every store.

    Segments of `[A-Za-z0-9._-]` joined by `/`, none of them empty or beginning with a dot: no way
    up or out, nothing that a store would have to escape, and room for a store's own files.
    """
    if len(name) > NAME_BYTES_MAX:
        raise ValueError(f"object name of {len(name)} bytes is over {NAME_BYTES_MAX}")
    for segment in name.split("/"):
        _check_segment(segment, name)


def check_prefix(prefix: str) -> None:
    """Raise `ValueError` unless some name could begin with `prefix`, which may end anywhere."""
    *segments, partial = prefix.split("/")
    for segment in segments:
        _check_segment(segment, prefix)
    if len(prefix) > NAME_BYTES_MAX or not _PARTIAL.fullmatch(partial):
        raise ValueError(f"{prefix!r} begins no object name")


def _check_segment(segment: str, name: str) -> None:
    if len(segment) > SEGMENT_BYTES_MAX or not _SEGMENT.fullmatch(segment):
        raise ValueError(f"{name!r} is no object name: {segment[:40]!r} can't be a part of one")
