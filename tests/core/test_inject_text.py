import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import INJECTED
from coatcheck_sidecar.core.inject_text import inject_text, uninject_text
from coatcheck_sidecar.core.workloads import Workload
from coatcheck_sidecar.core.yaml_edit import same
from coatcheck_sidecar.core.yaml_nodes import parse
from tests.core.test_inject import CONTAINER, METADATA, SPEC, choice

TEXT = """\
kind: Pod
metadata: {name: one}   # the first
spec:
  containers:
  - name: a
    image: x:1
---
kind: Job
metadata:
  name: two
spec:
  template:
    spec:
      containers:
      - name: b
        lifecycle:
          preStop:
            exec:
              # until the endpoints are gone
              command: [sleep, "5"]
"""


def every(_workload: Workload) -> bool:
    return True


def put(text: str, **options: Any) -> str:
    done = inject_text(text, choice(**options), select=every)
    assert not done.is_refused, done.told
    return done.text


def out(text: str) -> tuple[str, list[str]]:
    done = uninject_text(text, select=every)
    return done.text, [finding.code for one in done.told for finding in one.findings]


def test_there_and_back() -> None:
    assert out(put(TEXT)) == (TEXT, [])
    assert put(put(TEXT)) == put(TEXT)


def test_one_of_several() -> None:
    done = inject_text(TEXT, choice(), select=lambda one: str(one) == "job/two")
    assert [one.workload for one in done.told] == ["job/two"]
    assert done.text.startswith(TEXT[: TEXT.index("kind: Job")])
    assert put(done.text) == put(TEXT)
    first = uninject_text(put(TEXT), select=lambda one: str(one) == "pod/one")
    assert first.text == done.text
    assert [one.workload for one in uninject_text(first.text, select=every).told] == ["job/two"]


def test_a_new_choice_leaves_no_trace_of_the_old_one() -> None:
    assert put(put(TEXT), image="coatcheck:2", hook_token="t" * 16) == put(
        TEXT, image="coatcheck:2", hook_token="t" * 16
    )
    assert out(put(put(TEXT), grace_s=60)) == (TEXT, [])


def test_changes_elsewhere_cost_nothing() -> None:
    changed = "# more\n" + put(TEXT).replace("name: two", "name: three\n  labels: {a: b}")
    was = "# more\n" + TEXT.replace("name: two", "name: three\n  labels: {a: b}")
    assert out(changed) == (was, [])


def test_what_was_changed_by_hand_is_taken_out_as_well_as_can_be() -> None:
    changed = put(TEXT).replace("image: x:1", "image: x:2")
    text, codes = out(changed)
    assert codes == ["changed-by-hand"]
    assert text == TEXT.replace("image: x:1", "image: x:2")
    # It is not lost by injecting once more, either.
    assert put(changed) == changed
    newer = put(changed, image="coatcheck:2")
    assert "coatcheck:2" in newer
    assert out(newer)[0] == text


def test_what_was_written_anew_is_taken_out_too() -> None:
    anew = yaml.safe_dump_all(yaml.safe_load_all(put(TEXT)))
    text, codes = out(anew)
    assert codes == ["changed-by-hand"] * 2
    assert same(list(yaml.safe_load_all(text)), list(yaml.safe_load_all(TEXT)))


def test_the_text_says_what_was_there() -> None:
    job = parse(put(TEXT))[1].value["spec"]["template"]
    record = json.loads(job["metadata"]["annotations"][INJECTED])
    assert "# until the endpoints are gone" in str(record["text"])
    assert len(job["metadata"]["annotations"][INJECTED]) < 2_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: [],
        lambda text: ["x"],
        lambda text: [text[0], [0]],
        lambda text: [text[0], ["a", 1]],
        lambda text: [text[0], [1, 2, 3]],
        lambda text: [text[0], [-(10**9), 1]],
        lambda text: ["0" * 12, *text[1:]],
        lambda text: {"a": 1},
        lambda text: None,
    ],
)
def test_a_damaged_annotation_gives_back_no_nonsense(damage: Any) -> None:
    document = parse(put(TEXT))[0].value
    record = json.loads(document["metadata"]["annotations"][INJECTED])
    record["text"] = damage(record["text"])
    document["metadata"]["annotations"][INJECTED] = json.dumps(record)
    text, codes = out(yaml.safe_dump(document))
    assert codes == ["changed-by-hand"]
    assert yaml.safe_load(text) == next(yaml.safe_load_all(TEXT))


def test_nothing_is_half_done() -> None:
    text = TEXT + "---\nkind: Pod\nspec: {hostNetwork: true, containers: [{name: c}]}\n"
    done = inject_text(text, choice(), select=every)
    assert done.text == text
    assert [one.refused.code if one.refused else "" for one in done.told] == [
        "", "", "host-network"
    ]  # fmt: skip
    damaged = TEXT.replace("{name: one}", f"{{name: one, annotations: {{{INJECTED}: x}}}}")
    for did in (inject_text(damaged, choice(), select=every), uninject_text(damaged, select=every)):
        assert did.text == damaged
        assert did.is_refused


def test_what_is_read_through_an_alias_or_a_merge_is_refused() -> None:
    shared = "x: &x {spec: {containers: [{name: a}]}}\nkind: Job\n"
    for text in ("spec: {template: *x}\n", "spec: {<<: {template: {spec: {containers: []}}}}\n"):
        done = inject_text(shared + text, choice(), select=every)
        assert [one.refused.code for one in done.told if one.refused] == ["alias"]


def test_what_can_not_be_edited_is_refused() -> None:
    text = "kind: Pod\nspec:\n  containers:\n  - name: a\n    env: &e []\n    args: {x: *e}\n"
    assert out(put(text)) == (text, [])
    complex_key = "kind: Pod\nspec:\n  containers:\n  - ? env\n    : [ ]\n    name: a\n"
    done = inject_text(complex_key, choice(), select=every)
    assert [one.refused.code for one in done.told if one.refused] == ["unsafe-edit"]


def test_twins_are_each_given_back() -> None:
    job = (
        "- kind: Job\n  spec:\n    template:\n      metadata: {}\n      spec: {{containers: {}}}\n"
    )
    first = job.format("&m {labels: {a: b}}", "&c [{name: a}]")
    text = "kind: List\nitems:\n" + first + job.format("*m", "*c")
    made = put(text)
    assert out(made) == (text, [])
    assert put(made) == made


def test_annotations_that_come_by_a_merge() -> None:
    text = (
        "x: &x {annotations: {a: b}}\nkind: Job\nspec:\n  template:\n"
        "    metadata: {<<: *x}\n    spec: {containers: [{name: a}]}\n"
    )
    assert out(put(text)) == (text, [])
    assert put(put(text)) == put(text)


def test_nothing_to_do() -> None:
    for text in ("", "# nothing\n", "kind: Service\n", "---\n---\n"):
        assert inject_text(text, choice(), select=every).told == ()
        assert uninject_text(text, select=every).told == ()
        assert put(text) == text


@settings(max_examples=60)
@given(
    st.lists(CONTAINER, min_size=1, max_size=2), SPEC, METADATA,
    st.booleans() | st.none(), st.sampled_from(["\n", "\r\n"]), st.integers(2, 6), st.booleans(),
)  # fmt: skip
def test_any_template_in_any_layout(
    containers: list[Any], spec: Any, metadata: Any, is_flow: bool | None,
    newline: str, indent: int, is_cut: bool,
) -> None:  # fmt: skip
    named = [{"name": f"agent-{place}", **one} for place, one in enumerate(containers)]
    pod = {
        "kind": "Job",
        "spec": {"template": {"metadata": metadata, "spec": {**spec, "containers": named}}},
    }
    text = yaml.safe_dump(pod, default_flow_style=is_flow, indent=indent, sort_keys=False)
    text = (text.rstrip("\n") if is_cut else text).replace("\n", newline)
    given_ = choice(containers=tuple(one["name"] for one in named))
    made = inject_text(text, given_, select=every).text
    template = parse(made)[0].value["spec"]["template"]
    wanted = inject(pod["spec"]["template"], given_).template  # type: ignore[index]
    assert _without_text(template) == _without_text(wanted)
    assert inject_text(made, given_, select=every).text == made
    assert out(made) == (text, [])


def _without_text(template: Any) -> Any:
    annotations = dict(template["metadata"]["annotations"])
    record = json.loads(annotations[INJECTED])
    annotations[INJECTED] = {name: value for name, value in record.items() if name != "text"}
    return {**template, "metadata": {**template["metadata"], "annotations": annotations}}
