import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.effects import Kind, Suggestion, is_completion, pattern_of, suggest
from coatcheck_sidecar.core.model import Effect


def kind(pattern: str, by_method: Effect = Effect.ONCE, **counts: int) -> Kind:
    made = Kind("t", pattern, by_method, by_method, calls=4, good=4, telling=4)
    for name, count in counts.items():
        setattr(made, name, count)
    return made


def found(made: Kind) -> Suggestion:
    return suggest(made, at_s=0.0, observed_s=0.0)


@pytest.mark.parametrize(
    ("made", "effect", "is_certain"),
    [
        (kind("GET /v1/send", Effect.READ), Effect.READ, True),
        (kind("PUT /v1/x", Effect.IDEMPOTENT), Effect.IDEMPOTENT, True),
        (kind("POST /v1/messages", completions=4), Effect.READ, True),
        (kind("POST /v1/charges", keyed=4), Effect.IDEMPOTENT, False),
        (kind("POST /v1/charges", keyed=3), Effect.ONCE, False),
        (kind("POST /items/search", created=1), Effect.ONCE, True),
        (kind("POST /search"), Effect.READ, False),
        (kind("POST /users:lookup"), Effect.READ, False),
        (kind("POST /api/searchUsers"), Effect.READ, False),
        (kind("list_files"), Effect.READ, False),
        (kind("POST /search/send"), Effect.ONCE, False),
        (kind("POST /send/search"), Effect.ONCE, False),
        (kind("send_mail"), Effect.ONCE, False),
        (kind("POST /thing", equal=2), Effect.READ, False),
        (kind("POST /thing", equal=2, different=1), Effect.ONCE, False),
        (kind("POST /charge", equal=2), Effect.ONCE, False),
        (kind("POST /search", different=1), Effect.ONCE, False),
        (kind("POST /thing"), Effect.ONCE, False),
    ],
)
def test_what_the_facts_speak_for(made: Kind, effect: Effect, is_certain: bool) -> None:
    suggested = found(made)
    assert (suggested.effect, suggested.is_certain) == (effect, is_certain)
    assert suggested.why


def test_short_equal_answers_prove_nothing() -> None:
    made = kind("POST /thing", equal=3)
    made.telling = 3
    assert found(made).effect is Effect.ONCE


def test_a_search_that_never_succeeded_is_no_read() -> None:
    made = kind("POST /search")
    made.good = 0
    assert found(made).effect is Effect.ONCE


def test_completions_are_to_be_recorded_and_keys_to_be_declared() -> None:
    bought = found(kind("POST /v1/responses", completions=1))
    assert (bought.record, bought.is_completion, bought.upstream_key) == (True, True, False)
    keyed = found(kind("POST /v1/refunds", keyed=4))
    assert (keyed.record, keyed.upstream_key) == (False, True)


def test_exposed_time_is_counted_once_however_many_are_out() -> None:
    made = kind("POST /x")
    made.expose(1.0)
    made.expose(2.0)
    made.cover(3.0)
    assert suggest(made, at_s=4.0, observed_s=10.0).exposed_share == pytest.approx(0.3)
    made.cover(5.0)
    assert suggest(made, at_s=9.0, observed_s=10.0).exposed_share == pytest.approx(0.4)
    assert suggest(made, at_s=9.0, observed_s=1.0).exposed_share == 1.0


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "POST /"),
        ("/v1/invoices/4711/send", "POST /v1/invoices/*/send"),
        ("/v1beta/models/gemini-2.5-pro:generateContent", "POST /v1beta/models/*"),
        ("/orders/3f2b8c1e-0000-4000-8000-123456789abc", "POST /orders/*"),
        ("/users/search", "POST /users/search"),
        ("/oauth2/token", "POST /oauth2/token"),
        ("/a/b/c/d/e/f/g/h/i/j", "POST /a/b/c/d/e/f/g/h"),
        ("/" + "x" * 50, "POST /*"),
        ("/caf%C3%A9", "POST /*"),
    ],
)
def test_ids_are_left_out_of_patterns(path: str, pattern: str) -> None:
    assert pattern_of("post", path) == pattern


@pytest.mark.parametrize(
    ("path", "is_so"),
    [
        ("/chat/completions", True),
        ("/v1/messages", True),
        ("/v1/responses", True),
        ("/v1beta/models/g:streamGenerateContent", True),
        ("/v1beta/models/g:generateContent", True),
        ("/v1/messages/batches", False),
        ("/v1/files", False),
        ("/responses/messages/x", False),
    ],
)
def test_where_completions_are_sold(path: str, is_so: bool) -> None:
    assert is_completion(path) is is_so


@given(st.text(max_size=200))
def test_a_pattern_stays_short(path: str) -> None:
    assert len(pattern_of("GET", path)) <= 4 + 8 * 41


def test_no_secret_passes_for_a_name() -> None:
    for secret in ("bot7331:AAFx", "XkQpZrTyWvUbNmAsDfGhJkLq", "4242424242424242", "ghp_x1y2z3"):
        assert pattern_of("POST", f"/v1/{secret}/send") == "POST /v1/*/send"
    for name in ("batchCreateTransfers", "chat.postMessage", "users:lookup", "me", "DescribeDBs"):
        assert pattern_of("POST", f"/v1/{name}") == f"POST /v1/{name}"
