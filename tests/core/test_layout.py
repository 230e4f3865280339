import pytest

from coatcheck_sidecar.core.layout import head_name, made_at, object_name, objects_prefix


def test_an_object_tells_by_its_name_when_it_was_made() -> None:
    name = object_name("a.b", epoch=12, seq=345, random=bytes(range(16)))
    assert name == "runs/a.b/o/12-345-0001020304050607"
    assert made_at(name) == (12, 345)
    assert name.startswith(objects_prefix("a.b"))


@pytest.mark.parametrize(
    "name",
    [
        head_name("a"),
        "runs/a/o/1-2-00",
        "runs/a/o/1-2-000102030405060g",
        "runs/a/b/o/1-2-0001020304050607",
        "runs/a/o/x-2-0001020304050607",
        "runs/a/o/1-2-0001020304050607.tmp",
    ],
)
def test_what_is_not_ours_tells_nothing(name: str) -> None:
    assert made_at(name) is None
