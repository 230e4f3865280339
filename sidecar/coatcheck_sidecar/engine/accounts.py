"""Completions that were replayed and not bought again, with what they would have cost."""

from collections.abc import Mapping

from coatcheck_sidecar.core.completions import Price, dollars, usage
from coatcheck_sidecar.ports import Headers, Observer


class Accounts:
    """Counts replayed completions, by the price table of the configuration."""

    def __init__(self, observer: Observer, prices: Mapping[str, Price]) -> None:
        """A model without a price has its completions and tokens counted, and no dollars."""
        self._observer = observer
        self._prices = prices

    def replayed(self, tool: str, *, status: int, headers: Headers, body: bytes) -> None:
        """An answer was given from the log. One that is no completion counts for nothing."""
        if not 200 <= status < 300:
            return
        named = {name.lower(): value for name, value in headers}
        used = usage(
            named.get("content-type", ""), body, encoding=named.get("content-encoding", "")
        )
        if used is None:
            return
        self._observer.note(
            "completion_replayed",
            tool=tool,
            model=used.model,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            dollars=dollars(used, self._prices),
        )
