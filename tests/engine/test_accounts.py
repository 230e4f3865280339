import json

from coatcheck_sidecar.core.completions import Price
from coatcheck_sidecar.engine.accounts import Accounts
from coatcheck_sidecar.events import Events

ANSWER = {
    "object": "chat.completion",
    "model": "gpt-4.1",
    "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 500_000},
}


class Noted:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def note(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))


HEADERS = (("Content-Type", "application/json"),)


def test_replayed_completions_are_counted_with_their_dollars() -> None:
    events = Events()
    accounts = Accounts(events, {"gpt-4.1": Price(input=2, output=8)})
    for model in ("gpt-4.1", "unpriced"):
        body = json.dumps(ANSWER | {"model": model}).encode()
        accounts.replayed("openai", status=200, headers=HEADERS, body=body)
        accounts.replayed("openai", status=500, headers=HEADERS, body=body)
    accounts.replayed("openai", status=200, headers=HEADERS, body=b"{}")
    accounts.replayed("openai", status=200, headers=(), body=b"pong")
    shown = events.metrics().render("text/plain")[0].decode()
    assert 'coatcheck_completions_replayed_total{tool="openai"} 2.0' in shown
    assert 'coatcheck_replayed_input_tokens_total{tool="openai"} 2e+06' in shown
    assert 'coatcheck_replayed_output_tokens_total{tool="openai"} 1e+06' in shown
    assert 'coatcheck_replayed_dollars_total{tool="openai"} 6.0' in shown
