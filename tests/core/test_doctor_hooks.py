import pytest

from coatcheck_sidecar.core.doctor_hooks import ISTIO, LINKERD
from tests.core.doctoring import Change, Template, agent, codes, say, severity, sidecar


def hook(of: str, **changes: object) -> Change:
    def change(template: Template) -> None:
        container = sidecar(template) if of == "sidecar" else agent(template)
        container["lifecycle"]["preStop"]["httpGet"].update(changes)

    return change


def pre_stop(of: str, action: object) -> Change:
    def change(template: Template) -> None:
        container = sidecar(template) if of == "sidecar" else agent(template)
        container["lifecycle"] = {"preStop": action}

    return change


def test_hooks_that_are_not_there() -> None:
    assert codes(lambda t: sidecar(t).pop("lifecycle")) == ["drain-hook-missing"]
    assert codes(pre_stop("sidecar", {"sleep": {"seconds": 5}})) == ["drain-hook-missing"]
    assert codes(lambda t: agent(t).pop("lifecycle")) == ["barrier-missing"]
    assert severity("barrier-missing", lambda t: agent(t).pop("lifecycle")) == "warning"


def test_hooks_of_ones_own() -> None:
    drain = {"exec": {"command": ["coatcheck", "drain"]}}
    assert codes(pre_stop("sidecar", drain)) == []
    assert codes(pre_stop("agent", {"exec": {"command": ["./bye.sh"]}})) == ["hook-kept"]
    barrier = ["sh", "-c", "./bye.sh; curl http://$POD_IP:7071/drain/barrier"]
    assert codes(pre_stop("agent", {"exec": {"command": barrier}})) == []


@pytest.mark.parametrize("of", ["sidecar", "agent"])
def test_hooks_that_go_astray(of: str) -> None:
    assert codes(hook(of, port=7070)) == ["hook-port"]
    assert codes(hook(of, port="7071")) == []
    assert codes(hook(of, port="coatcheck")) == ([] if of == "sidecar" else ["hook-port"])
    assert codes(hook(of, host="10.0.0.1")) == ["hook-elsewhere"]
    assert codes(hook(of, scheme="HTTPS")) == ["hook-elsewhere"]


def test_hooks_and_their_token() -> None:
    token = say("COATCHECK_HOOK_TOKEN", "t" * 16)
    said = [{"name": "coatcheck-hook-token", "value": "t" * 16}]
    assert codes(token) == ["hook-token", "hook-token"]
    assert codes(token, hook("sidecar", httpHeaders=said)) == ["hook-token"]
    assert codes(token, *(hook(of, httpHeaders=said) for of in ("sidecar", "agent"))) == []


def test_a_listener_that_the_kubelet_cannot_reach() -> None:
    assert codes(say("COATCHECK_ADMIN_LISTEN", "127.0.0.1:7071")) == ["admin-on-loopback"]
    assert codes(say("COATCHECK_ADMIN_LISTEN", None)) == []
    other = say("COATCHECK_ADMIN_LISTEN", "0.0.0.0:7171")
    assert codes(other) == ["hook-port", "hook-port"]


def mesh(annotation: str, value: str, **more: str) -> Change:
    def change(template: Template) -> None:
        template["metadata"]["annotations"] = {annotation: value, **more}

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (mesh("sidecar.istio.io/inject", "true"), ["mesh-takes-hooks"]),
        (mesh("linkerd.io/inject", "enabled"), ["mesh-takes-hooks"]),
        (mesh("sidecar.istio.io/inject", "false"), []),
        (mesh("sidecar.istio.io/inject", "true", **{ISTIO: "80, 7000-7100"}), []),
        (mesh("sidecar.istio.io/inject", "true", **{ISTIO: "80,x-y"}), ["mesh-takes-hooks"]),
        (mesh("linkerd.io/inject", "enabled", **{LINKERD: "7071"}), []),
        (
            mesh(
                "sidecar.istio.io/inject",
                "true",
                **{"traffic.sidecar.istio.io/includeInboundPorts": ""},
            ),
            [],
        ),
    ],
)
def test_meshes(change: Change, found: list[str]) -> None:
    assert codes(change) == found


@pytest.mark.parametrize("proxy", ["istio-proxy", "linkerd-proxy"])
def test_a_mesh_known_by_its_proxy(proxy: str) -> None:
    def change(template: Template) -> None:
        template["spec"]["containers"].append({"name": proxy, "image": "p"})
        template["metadata"]["annotations"] = {}

    assert codes(change) == ["mesh-takes-hooks"]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["sh", "-c", "python agent.py | tee log"], ["shell-is-first"]),
        (["/bin/bash", "-c", "python agent.py"], []),
        (["sh", "-c", "a || b"], []),
        (["sh", "-c", "python agent.py --sep '|'"], []),
        (["sh", "-c", "exec python agent.py > >(tee log) | x"], []),
        (["sh", "run.sh", "x"], []),
        (["python", "-c", "a | b"], []),
    ],
)
def test_a_shell_that_stays_is_said_where_it_is_sure(command: list[str], found: list[str]) -> None:
    assert codes(lambda t: agent(t).update(command=command)) == found


def test_a_shell_in_a_pod_that_shares_its_processes_is_not_first() -> None:
    shared: Change = lambda t: t["spec"].update(shareProcessNamespace=True)  # noqa: E731
    assert codes(shared, lambda t: agent(t).update(command=["sh", "-c", "a | b"])) == []


def test_modes_that_differ() -> None:
    assert codes(say("COATCHECK_MODE", "off", of=agent)) == ["mode-disagrees"]
    assert codes(say("COATCHECK_MODE", "observe")) == []
