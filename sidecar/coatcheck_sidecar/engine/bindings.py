"""Which run and which life of its agent a request over HTTP is of: by the token in its URL.

A token is derived from the run, the incarnation and a secret of the data folder: the same after a
sidecar's restart, another for the next agent, and none that could be guessed.
"""

import hmac
from dataclasses import dataclass
from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.engine.calls import Calls
from coatcheck_sidecar.engine.keeper import Keeper

TOKEN_CHARS: Final = 32
"""128 bits of a SHA-256, as hex."""

OVER_MAX: Final = 10_000
"""Tokens remembered whose run is over here, so that their agents are told so."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a token stands for, while its run is owned here."""

    keeper: Keeper
    calls: Calls
    incarnation: bytes


class Bindings:
    """Tokens of the runs that agents of this pod have open."""

    def __init__(self, secret: bytes) -> None:
        """`secret` has 32 bytes and stays with the data folder."""
        self._secret = secret
        self._bound: dict[str, Binding] = {}
        self._over: dict[str, ErrorCode] = {}

    def bind(self, keeper: Keeper, calls: Calls, *, incarnation: bytes) -> str:
        """The token for this life of the run's agent; an earlier life's ends with it."""
        self.unbind(keeper.run)
        token = self._token(keeper.run, incarnation)
        self._over.pop(token, None)
        self._bound[token] = Binding(keeper, calls, incarnation)
        return token

    def unbind(self, run: str) -> None:
        """The run is no longer owned here."""
        gone = [token for token, bound in self._bound.items() if bound.keeper.run == run]
        for token in gone:
            is_late = self._bound.pop(token).keeper.is_expired
            self._over[token] = ErrorCode.DEADLINE_EXCEEDED if is_late else ErrorCode.FENCED
        while len(self._over) > OVER_MAX:
            del self._over[next(iter(self._over))]

    def ended_by(self, token: str) -> ErrorCode | None:
        """Why a token is over that was given out here."""
        return self._over.get(token)

    def find(self, token: str) -> Binding | None:
        """What a token stands for; `None` for one that is made up or over."""
        return self._bound.get(token)

    def _token(self, run: str, incarnation: bytes) -> str:
        said = run.encode() + b"\0" + incarnation
        return hmac.digest(self._secret, said, "sha256").hex()[:TOKEN_CHARS]
