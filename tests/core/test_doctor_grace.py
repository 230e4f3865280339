import pytest

from tests.core.doctoring import Template, codes, say, severity, sidecar


def grace(seconds: int | None, told: str) -> list[str]:
    def change(template: Template) -> None:
        template["spec"]["terminationGracePeriodSeconds"] = seconds

    return codes(change, say("COATCHECK_GRACE_S", told))


@pytest.mark.parametrize(
    ("seconds", "told", "found"),
    [
        (120, "120", []),
        (None, "30", []),
        (60, "120", ["grace-disagrees"]),
        (None, "120", ["grace-disagrees"]),
        (120, "60", ["grace-disagrees"]),
        (600, "600", []),
        (601, "601", ["grace-long"]),
        (7, "7", []),
        (6, "6", ["grace-short"]),
        (1, "1", ["grace-short"]),
    ],
)
def test_grace(seconds: int | None, told: str, found: list[str]) -> None:
    assert grace(seconds, told) == found


def test_to_plan_for_too_much_is_worse_than_for_too_little() -> None:
    assert severity("grace-disagrees", say("COATCHECK_GRACE_S", "600")) == "error"
    assert severity("grace-disagrees", say("COATCHECK_GRACE_S", "60")) == "warning"


def test_without_a_word_it_is_the_default() -> None:
    assert codes(say("COATCHECK_GRACE_S", None)) == ["grace-disagrees"]


def test_what_comes_from_elsewhere_is_not_guessed() -> None:
    def elsewhere(template: Template) -> None:
        sidecar(template)["envFrom"] = [{"secretRef": {"name": "x"}}]

    assert codes(elsewhere) == []
    assert codes(elsewhere, say("COATCHECK_GRACE_S", None)) == ["grace-unknown"]
    assert codes(say("COATCHECK_GRACE_S", "soon")) == ["grace-unknown"]


def test_a_margin_that_eats_the_grace() -> None:
    assert codes(say("COATCHECK_MARGIN_S", "119.9")) == ["grace-short"]
