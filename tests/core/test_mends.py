"""Each reason to hold a call says what lets it go on."""

import ast
import inspect
from types import ModuleType

import pytest

from coatcheck_sidecar.core import call, doubt, policy
from coatcheck_sidecar.core.call_events import Ending, Reason
from coatcheck_sidecar.core.mends import MENDS, mend_of


@pytest.mark.parametrize("module", [call, doubt, policy])
def test_whatever_is_held_has_a_mend(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    held = [
        node.attr
        for hold in ast.walk(tree)
        if isinstance(hold, ast.Call) and getattr(hold.func, "id", "") == "Hold"
        for node in ast.walk(hold)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Reason"
    ]
    assert held
    assert [name for name in held if Reason[name] not in MENDS] == []


def test_a_mend_names_the_run_and_the_call() -> None:
    lost = mend_of(Ending.LOST, run="order-1", call=17)
    assert lost.endswith("decide with `coatcheck resolve order-1 17 ...`")
    assert "resolve order-1 CALL" in mend_of(Ending.LOST, run="order-1", call=None)
    assert mend_of(Reason.IN_FLIGHT, run="order-1", call=17) == ""
