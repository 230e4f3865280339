"""The ledger of the payments server: one line a charge, fsynced; what really happened."""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Charge:
    """Money that was taken."""

    id: str
    ref: str
    """What it was taken for: an invoice line."""
    cents: int
    key: str | None
    """The `Idempotency-Key` under which it was asked for."""
    by: str = ""
    """Who asked: the pod."""


class Ledger:
    """Append-only; survives a kill of its process at any point."""

    def __init__(self, path: Path) -> None:
        """Read what is there. A last line that was cut short was never answered: it goes."""
        whole = path.read_bytes() if path.exists() else b""
        kept = whole[: whole.rfind(b"\n") + 1]
        self.charges = [Charge(**json.loads(line)) for line in kept.splitlines()]
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.ftruncate(self._file, len(kept))
        os.lseek(self._file, 0, os.SEEK_END)

    def add(self, ref: str, cents: int, *, key: str | None, by: str = "") -> Charge:
        """Take money; durable when it returns."""
        charge = Charge(f"ch_{len(self.charges) + 1:05}", ref, cents, key, by)
        os.write(self._file, json.dumps(asdict(charge)).encode() + b"\n")
        os.fsync(self._file)
        self.charges.append(charge)
        return charge

    def under(self, key: str) -> Charge | None:
        """The charge that was made under a key."""
        return next((charge for charge in self.charges if charge.key == key), None)

    def of(self, ref: str) -> list[Charge]:
        """All charges for one thing: more than one is a customer charged twice."""
        return [charge for charge in self.charges if charge.ref == ref]

    def close(self) -> None:
        os.close(self._file)


def read_ledger(path: Path) -> list[Charge]:
    """The charges in a ledger that somebody else is writing."""
    whole = path.read_bytes() if path.exists() else b""
    return [Charge(**json.loads(line)) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


@dataclass(frozen=True, slots=True)
class Audit:
    """A ledger held against what should be in it."""

    expected: int
    made: int
    missing: tuple[str, ...]
    doubled: tuple[str, ...]
    stray: tuple[str, ...]
    """Charged with the wrong amount, or never ordered."""

    @property
    def is_clean(self) -> bool:
        return not (self.missing or self.doubled or self.stray)


def audit(charges: Iterable[Charge], orders: dict[str, int]) -> Audit:
    """`orders` is cents by ref."""
    charges = list(charges)
    times = Counter(charge.ref for charge in charges)
    return Audit(
        expected=len(orders),
        made=len(charges),
        missing=tuple(sorted(orders.keys() - times.keys())),
        doubled=tuple(sorted(ref for ref, count in times.items() if count > 1)),
        stray=tuple(sorted(c.ref for c in charges if orders.get(c.ref) != c.cents)),
    )
