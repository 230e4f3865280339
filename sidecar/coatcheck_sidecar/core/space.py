"""What may come to lie in the data folder: a volume that outgrows its limit has its pod evicted."""

from typing import Final

BALLAST_BYTES: Final = 1_048_576
"""Room for a last batch, deletes and a checkpoint on a full disk: each is some hundred KiB."""
WAL_KEPT_BYTES: Final = 4_194_304
"""Above what the writer lets a WAL grow to: one that is cut and grown again makes fsync dearer."""
JOURNAL_PER_2_BYTES: Final = 3
"""What two bytes of rows take in the journal's file: 2.4 in rows of 120 bytes, 2.1 in long ones."""


def data_bytes(*, journal_bytes_max: int, spool_bytes_max: int) -> int:
    """The most that may lie there: rows with their overhead, log, spool, ballast."""
    journal_bytes = journal_bytes_max * JOURNAL_PER_2_BYTES // 2 + WAL_KEPT_BYTES
    return journal_bytes + spool_bytes_max + BALLAST_BYTES
