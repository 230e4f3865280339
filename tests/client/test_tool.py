"""What a tool may say of itself, and how its calls are told."""

import functools
from typing import Any

import pytest

import coatcheck
from coatcheck._tool import Call, declare


def charge(invoice: str, amount: int = 1, *lines: str, **more: str) -> None:
    """A tool."""


def call(*args: Any, function: Any = charge, **options: Any) -> Call:
    return Call(1, declare(function, options), function, args, {})  # type: ignore[arg-type]


def test_a_declared_function_stays_what_it_was() -> None:
    @coatcheck.tool(effect="idempotent", key_lifetime_s=60.0)
    def add(a: int, b: int) -> int:
        return a + b

    assert add(1, 2) == 3
    assert declare(add, {})["effect"] == "idempotent"
    again = declare(add, {"name": "sum"})
    assert (again["name"], again["effect"], again["key_lifetime_s"]) == ("sum", "idempotent", 60.0)


def test_what_says_nothing_is_guarded() -> None:
    assert declare(charge, {}) == {"name": "charge", "effect": "once"}


def test_a_method_is_declared_for_all_its_objects() -> None:
    class Bank:
        @coatcheck.tool(effect="read")
        def balance(self, account: str) -> int:
            return len(account)

    assert declare(Bank().balance, {})["effect"] == "read"
    assert call("a", function=Bank().balance).arguments() == {"account": "a"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"effect": "write"}, "effect is 'write'"),
        ({"identity": "both"}, "identity is 'both'"),
        ({"durability": "disk"}, "durability is 'disk'"),
        ({"effect": "idempotent", "probe": charge}, "only a tool of effect once has a probe"),
        ({"probe_settle_s": 3.0}, "needs a probe"),
        ({"record": True}, "recorded anyway"),
        ({"effect": "read", "key": "k"}, "takes no key"),
        ({"effect": "read", "record": True, "undo": charge}, "nothing to undo"),
        ({"effect": "read", "irreversible": True}, "irreversible has no undo"),
        ({"irreversible": True, "undo": charge}, "irreversible has no undo"),
        ({"key": ""}, "at least one character"),
    ],
)
def test_what_contradicts_itself_is_refused(options: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        declare(charge, options)


def test_other_mistakes_are_refused_by_type() -> None:
    with pytest.raises(TypeError, match="can't be called"):
        declare(charge, {"undo": "refund"})  # type: ignore[typeddict-item]
    with pytest.raises(TypeError, match="efect"):
        declare(charge, {"efect": "read"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="give it one with name="):
        declare(functools.partial(charge, "i"), {})


def test_arguments_are_told_by_name_and_as_given() -> None:
    assert call("i").arguments() == {"invoice": "i"}
    given = Call(1, declare(charge, {}), charge, ("i", 2, "x"), {"note": "n"})
    expected = {"invoice": "i", "amount": 2, "lines": ("x",), "more": {"note": "n"}}
    assert given.arguments() == expected
    with pytest.raises(TypeError, match="invoice"):
        call().arguments()


def test_a_business_key_points_at_a_default_too() -> None:
    made = call("i", key="/amount")
    assert (made.business, made.explicit_key()) == ("/amount", None)
    assert made.arguments() == {"invoice": "i", "amount": 1}
    with pytest.raises(ValueError, match="no parameter for its key /order"):
        call("i", key="/order/id").arguments()


def test_an_explicit_key_may_be_reckoned() -> None:
    assert call("i", key="fixed").explicit_key() == "fixed"
    assert call("i", key=lambda invoice: f"charge-{invoice}").explicit_key() == "charge-i"
    with pytest.raises(TypeError, match="not a str"):
        call("i", key=lambda invoice: None).explicit_key()


def test_there_is_no_key_outside_a_tool() -> None:
    with pytest.raises(LookupError, match=r"step\.tool"):
        coatcheck.current_key()
