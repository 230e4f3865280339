"""Who is killed when: by chance, but the same chance for the same seed."""

import random
from dataclasses import dataclass
from typing import Final

from examples.demo.pods import Blow, Pod

WEIGHTS: Final = {Blow.NODE: 4, Blow.POD: 3, Blow.AGENT: 3, Blow.SIDECAR: 2}
"""A third of all kills takes the data folder too."""
DOWN_S: Final = (0.2, 1.5)
"""How long what was killed stays away: less than the lease and, with the start, about as long."""
GRACE_S: Final = 3.0
"""A pod that just came back gets this long before it may be struck again."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A kill that happened."""

    at_s: float
    pod: str
    uid: str
    blow: Blow


class Chaos:
    """Strikes pods and puts them back. Driven by `tick`, so that nothing happens unseen."""

    def __init__(self, pods: list[Pod], *, chance: random.Random, every_s: float) -> None:
        """`every_s` is the mean time between two strikes."""
        self.strikes: list[Strike] = []
        self._pods = pods
        self._chance = chance
        self._every_s = every_s
        self._next_s = chance.uniform(0.5, 1.5) * every_s
        self._back_s: dict[str, float] = {}
        self._safe_until_s: dict[str, float] = {}

    def strike(self, now_s: float) -> Strike | None:
        """Kill something if it is time."""
        if now_s < self._next_s:
            return None
        self._next_s = now_s + self._chance.uniform(0.3, 1.7) * self._every_s
        standing = [pod for pod in self._pods if self._may_be_struck(pod, now_s)]
        if not standing:
            return None
        pod = self._chance.choice(standing)
        blow = self._chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        strike = Strike(now_s, pod.name, pod.uid, blow)
        pod.kill(blow)
        self.strikes.append(strike)
        self._back_s[pod.name] = now_s + self._chance.uniform(*DOWN_S)
        return strike

    def _may_be_struck(self, pod: Pod, now_s: float) -> bool:
        return pod.name not in self._back_s and now_s >= self._safe_until_s.get(pod.name, 0)

    def replace(self, now_s: float) -> list[Pod]:
        """Start again what was down for long enough; the pods that are back."""
        back = [pod for pod in self._pods if self._back_s.get(pod.name, now_s + 1) <= now_s]
        for pod in back:
            del self._back_s[pod.name]
            self._safe_until_s[pod.name] = now_s + GRACE_S
            pod.start()
        return back

    def is_down(self, pod: Pod) -> bool:
        """Struck, and not back yet."""
        return pod.name in self._back_s

    def count(self, blow: Blow) -> int:
        return sum(strike.blow is blow for strike in self.strikes)
