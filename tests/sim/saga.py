"""Which seeds have runs that are taken back, by whom, and what their calls are taken back with.

A seed without has nothing of this: it is the same story as if there were no compensation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal
from zlib import crc32

import coatcheck
from coatcheck._tool import HERE
from coatcheck_sidecar.core.policy import upstream_key
from tests.sim.agent_plan import Act, RunPlan
from tests.sim.loop import this_process
from tests.sim.upstream import SETTLE_S, UNDO

if TYPE_CHECKING:
    from tests.sim.world import Pod, World

SAGAS: Final = 0.4
"""The share of seeds with runs that are taken back."""
TAKEN_BACK: Final = 0.7
"""Of those, the share of runs that somebody wants taken back."""
AT_S: Final = (3.0, 30.0)
"""When that is."""
AT_DRAIN: Final = 0.5
"""The share of seeds whose runs are to be taken back when their pod stops."""
DEPLOYS_MAX: Final = 2
"""More of them than other seeds have: they are what that is about."""
FINALS: Final = ("final", "final-again", "http-final", "http-final-put")
"""Irreversible: made once, and made with an effect that may be had again."""
HAS_FINALS: Final = 0.5
"""The share of runs with some."""
IS_FINAL: Final = 0.25
"""The share of their calls."""
LEFT_AS_IT_IS: Final = 7
"""One of so many calls of functions has nothing that takes it back."""
HOW: Final = {
    "idempotent": "again",
    "keyed": "keyed",
    "shipped": "keyed",
    "probed": "probed",
    "once": "once",
    "business": "keyed",
    "named": "once",
}
"""By kind: of what class the function is that takes a call back."""
KEY_LIFETIME_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Owner:
    """A run in one of its epochs, as a function knows it that is called for it."""

    id: str
    epoch: int


class Saga:
    """What a seed decides about taking runs back; with randomness of its own."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"saga {seed}")
        self.is_on = self.random.random() < SAGAS
        is_asked = self.is_on and self.random.random() < AT_DRAIN
        self.on_drain: Literal["auto", "compensate"] = "compensate" if is_asked else "auto"

    @property
    def options(self) -> dict[str, Any]:
        """What agents say when they open a run."""
        return {"on_drain": self.on_drain} if self.is_on else {}

    def deploys_s(self, until_s: float) -> list[float]:
        """When pods are told to go, beside all else that happens."""
        count = self.random.randint(0, DEPLOYS_MAX) if self.is_on else 0
        return [self.random.uniform(1.0, until_s) for _ in range(count)]

    def dress(self, plan: RunPlan, *, kinds: Sequence[str]) -> RunPlan:
        """The same script, where some calls can't be taken back, and most others can."""
        if not self.is_on:
            return plan
        finals = [kind for kind in FINALS if ("http" in kind) in {"http" in k for k in kinds}]
        share = IS_FINAL if self.random.random() < HAS_FINALS else 0.0
        steps = []
        for step in plan.steps:
            acts = [self._dressed(act, finals, share=share) for act in step.acts]
            steps.append(replace(step, acts=tuple(acts)))
        return replace(plan, steps=tuple(steps))

    def _dressed(self, act: Act, finals: Sequence[str], *, share: float) -> Act:
        if self.random.random() < share:
            return replace(act, kind=self.random.choice(finals))
        is_left = crc32(act.name.encode()) % LEFT_AS_IT_IS == 0
        return replace(act, undo="" if is_left else HOW.get(act.kind, "request"))


class Refunds:
    """The functions of one agent process that take calls back."""

    def __init__(self, world: "World", pod: "Pod") -> None:
        self._world = world
        self._pod = pod
        self._made = {how: self._make(how) for how in sorted(set(HOW.values()))}

    def declare(self) -> None:
        """As a module does that is loaded: a process may begin with taking back."""
        for kind, how in HOW.items():
            this_process().undos[f"charge-{kind}", self._made[how].__name__] = self._made[how]

    def options_of(self, act: Act) -> dict[str, Any]:
        """What the tool of this call says of taking it back."""
        if act.kind in FINALS:
            return {"irreversible": True}
        return {"undo": self._made[act.undo]} if act.undo in self._made else {}

    def _make(self, how: str) -> Callable[..., Any]:
        upstream, judge = self._world.upstream, self._world.judge

        async def refund(charged: list[Any]) -> int:
            name = UNDO + upstream.names[charged[0]]
            here = HERE.get()
            assert here is not None
            session, key = here.session, coatcheck.current_key()
            run = Owner(session.run or "", session.epoch)
            judge.charging(run, key, act=Act(name, f"undo-{how}", 0), pod=self._pod)
            receipt = await upstream.send(f"undo-{how}", name, key=key)
            self._world.note("taken back", name=name, how=how)
            return receipt

        async def look(charged: list[Any]) -> int | None:
            return await upstream.probe(UNDO + upstream.names[charged[0]])

        refund.__name__ = f"refund_{how}"
        options: dict[str, Any] = {"effect": "idempotent"}
        match how:
            case "keyed":
                options |= {"key_lifetime_s": KEY_LIFETIME_S}
            case "probed":
                options = {"effect": "once", "probe": look, "probe_settle_s": SETTLE_S}
            case "once":
                options = {"effect": "once"}
            case _:
                pass
        return coatcheck.tool(**options)(refund)


class UndosOfProcess:
    """In place of the client's: several agent processes live in this one."""

    def get(self, key: tuple[str, str]) -> Callable[..., Any] | None:
        return this_process().undos.get(key)


def charge_of(charges: dict[str, str], run: str, key: str) -> str:
    """The logical charge behind a call's key; empty if it never left."""
    return charges.get(upstream_key(run, key), "")
