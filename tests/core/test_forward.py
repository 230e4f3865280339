import pytest

from coatcheck_sidecar.core.forward import Place, normal, place


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("example.com", Place("example.com")),
        ("Example.com.:80", Place("example.com", 80)),
        ("*.example.com:443", Place("*.example.com", 443)),
        ("[::1]:80", Place("::1", 80)),
        ("[::1]", Place("::1")),
        ("0x7f.1", Place("127.0.0.1")),
    ],
)
def test_places_are_read(text: str, found: Place) -> None:
    assert place(text) == found


def test_a_port_that_is_not_said() -> None:
    assert place("a", default_port=443) == Place("a", 443)
    assert place("a:80", default_port=443) == Place("a", 80)


@pytest.mark.parametrize(
    "text", ["", ":80", "a:0", "a:65536", "a:x", "a b", "http://a", "::1", "[::g]:1", "[]", "*"]
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(ValueError, match="host or host:port"):
        place(text)


def test_what_a_place_holds() -> None:
    assert Place("a.example", 80).holds("A.example.", 80)
    assert not Place("a.example", 80).holds("a.example", 81)
    assert Place("a.example").holds("a.example", 81)
    below = Place("*.example")
    assert below.holds("a.b.example", 1)
    assert not below.holds("example", 1)
    assert not below.holds("badexample", 1)
    assert Place("127.0.0.1").holds("2130706433", 80)
    assert not Place("*.1").holds("127.0.0.1", 80)
    assert normal("[::1]") == "::1"
