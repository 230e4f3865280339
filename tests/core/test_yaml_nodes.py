import pytest

from coatcheck_sidecar.core.yaml_nodes import Alias, Leaf, Map, NotYaml, Seq, parse


def written(text: str) -> list[tuple[str, str]]:
    """What is written, by kind, in the order of a walk."""
    found: list[tuple[str, str]] = []

    def walk(node: object) -> None:
        match node:
            case Map(start, end, entries=entries):
                found.append(("map", text[start:end]))
                for entry in entries:
                    walk(entry.value)
            case Seq(start, end, items=items):
                found.append(("seq", text[start:end]))
                for item in items:
                    walk(item.value)
            case Alias(start, end):
                found.append(("alias", text[start:end]))
            case Leaf(start, end):
                found.append(("leaf", text[start:end]))
            case _:
                raise AssertionError(node)

    for document in parse(text):
        walk(document.node)
    return found


def test_a_block_ends_where_its_last_value_does() -> None:
    text = "a:\n  b: 1   # one\n  # tail\n\n# more\nc: [1, {d: 2}]  # flow\n"
    assert written(text) == [
        ("map", text[: text.index("  # flow")]),
        ("map", "b: 1"),
        ("leaf", "1"),
        ("seq", "[1, {d: 2}]"),
        ("leaf", "1"),
        ("map", "{d: 2}"),
        ("leaf", "2"),
    ]


def test_dashes() -> None:
    text = "- a\n-\n  # c\n  b: 1\n- - x\n  - y\n-\n- [z]\n"
    node = parse(text)[0].node
    assert isinstance(node, Seq)
    assert [item.dash for item in node.items] == [0, 4, 19, 31, 33]
    inner = node.items[2].value
    assert isinstance(inner, Seq)
    assert [item.dash for item in inner.items] == [21, 27]
    flow = node.items[4].value
    assert isinstance(flow, Seq)
    assert (flow.is_flow, text[flow.items[0].dash]) == (True, "z")


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("a: |\n  x\n\n  y\n\n\nb: 1\n", "|\n  x\n\n  y\n"),
        ("a: |-  # c + c\n  x\n\nb: 1\n", "|-  # c + c\n  x\n"),
        ("a: |+\n  x\n\nb: 1\n", "|+\n  x\n\n"),
        ("a: >\n  x", ">\n  x"),
        ("a: |\n\nb: 1", "|\n"),
    ],
)
def test_block_scalars_end_with_their_last_line(text: str, block: str) -> None:
    assert ("leaf", block) in written(text)


def test_aliases_and_anchors() -> None:
    text = "a: &x {b: 1}\nc: *x\nd: [*x, &y 2, *y]\ne: &z\n  <<: *x\n"
    document = parse(text)[0]
    assert [said for kind, said in written(text) if kind == "alias"] == ["*x", "*x", "*y", "*x"]
    assert isinstance(document.node, Map)
    values = [entry.value for entry in document.node.entries]
    assert [value.anchor for value in values] == [True, False, False, True]
    assert isinstance(values[1], Alias)
    assert values[1].target is values[0]
    merged = values[3]
    assert isinstance(merged, Map)
    assert merged.entries[0].name is None
    assert document.value["e"] == {"b": 1}
    document.value["a"]["b"] = 2
    assert document.value["c"] == {"b": 1}


def test_dates_are_texts() -> None:
    text = "a: 2024-10-02\nb: 1\nc: yes\n"
    assert parse(text)[0].value == {"a": "2024-10-02", "b": 1, "c": True}


def test_streams() -> None:
    values = [one.value for one in parse("---\na: 1\n...\n---\n# none\n---\n- b\n")]
    assert values == [{"a": 1}, None, ["b"]]
    assert parse("# nothing\n") == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: {{ x }}\n", "unhashable"),
        ("a: [", "line 2"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' twice"),
        ("a: *x\n", "undefined alias"),
        ("a: &x b\n*x : c\n", "alias as a key"),
        ("a: &x [*x]\n", "."),
        ("a: !python/object:os.system x\n", "could not determine a constructor"),
        ("a: \x00\n", "."),
        ("? [a]\n: b\n", "unhashable"),
        ("[" * 5000, "."),
    ],
)
def test_what_can_not_be_read(text: str, why: str) -> None:
    with pytest.raises(NotYaml, match=why):
        parse(text)
