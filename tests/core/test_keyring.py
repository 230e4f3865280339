"""The file of keys: what it may say, and that no mistake in it shows a key."""

import base64

import pytest

from coatcheck_sidecar.core.keyring import KEYS_MAX, PLAIN, parse_key_ring

KEY_A, KEY_B = bytes(range(32)), bytes(range(32, 64))
A, B = (base64.b64encode(key).decode() for key in (KEY_A, KEY_B))


def test_the_first_writes_and_all_read() -> None:
    ring = parse_key_ring(f"# since May\n2026-11: {B}\n\n2026-05:{A}\n")
    assert ring.writer == "2026-11"
    assert dict(ring.keys) == {"2026-11": KEY_B, "2026-05": KEY_A}
    assert not ring.reads_plain


def test_it_may_be_quoted_as_yaml_is() -> None:
    assert parse_key_ring(f"a: '{A}'\nb: \"{B}\"").keys == {"a": KEY_A, "b": KEY_B}


def test_plain_may_stand_first_or_last() -> None:
    first, last = parse_key_ring(f"plain\na: {A}"), parse_key_ring(f"a: {A}\nplain\n")
    assert (first.writer, last.writer) == (PLAIN, "a")
    assert first.reads_plain
    assert last.reads_plain
    assert first.keys == last.keys == {"a": KEY_A}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it holds no key"),
        ("plain", "it holds no key"),
        (f"a: {A}\na: {B}", "line 2: there is such an id above"),
        (f"a: {A}\nplain: {B}", "line 2: `plain` has no key"),
        (f"a: {A[:-4]}", "line 1: must be"),
        (f"a: {A}AAAA", "line 1: must be"),
        (f"a: {A[:-2]}!=", "line 1: must be"),
        ("a: é", "line 1: must be"),
        (A, "line 1: must be"),
        (f"{A}:", "line 1: must be"),
        (f"a b: {A}", "line 1: an id has"),
        (f"{'x' * 17}: {A}", "line 1: an id has"),
        (f": {A}", "line 1: an id has"),
        ("\n".join(f"k{n}: {A}" for n in range(KEYS_MAX + 1)), "it holds 65 keys; at most 64"),
    ],
)
def test_a_mistake_is_named_and_shows_no_key(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse_key_ring(text)
    assert A[:12] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_ring_is_shown_without_its_keys() -> None:
    assert str(KEY_A) not in repr(parse_key_ring(f"a: {A}"))
