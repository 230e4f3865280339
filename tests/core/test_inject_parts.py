from typing import Any

import pytest

from coatcheck_sidecar.config import load_config
from coatcheck_sidecar.core.inject_choice import Choice
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_parts import (
    DATA_BYTES,
    DATA_SIZE,
    agent_environment,
    environment,
    resources_in,
    sidecar,
    volumes,
)
from coatcheck_sidecar.core.inject_pod import Pod, quantity, read_pod


def pod(resources: Any = None, **spec: Any) -> Pod:
    return read_pod(
        Draft({"spec": {"containers": [{"name": "a", "resources": resources}], **spec}})
    )


def choice(**options: Any) -> Choice:
    return Choice(**{"store": "s3://b/p", "image": "i", "version": "1", **options})


@pytest.mark.parametrize("options", [{}, {"mode": "observe", "hook_token": "t" * 16}])
def test_the_sidecar_takes_its_environment(options: dict[str, Any]) -> None:
    environ = {
        one["name"]: one.get("value", "x") for one in environment(choice(**options), grace_s=45)
    }
    environ["COATCHECK_ADMIN_LISTEN"] = environ["COATCHECK_ADMIN_LISTEN"].replace(
        "$(POD_IP)", "fd00::1"
    )
    config = load_config({}, environ=environ)
    assert (config.grace_s, config.store) == (45, "s3://b/p")
    assert config.admin_listen == ("fd00::1", 7071)
    assert config.data_bytes_max == DATA_BYTES == quantity(DATA_SIZE)
    assert config.hook_token == options.get("hook_token", "")
    assert config.mode == agent_environment(choice(**options))["COATCHECK_MODE"]
    assert environment(choice(), grace_s=1)[0]["name"] == "POD_IP"


def test_native_and_plain() -> None:
    assert sidecar(choice(), pod(), grace_s=30)["restartPolicy"] == "Always"
    plain = sidecar(choice(is_plain=True), pod(), grace_s=30)
    assert "restartPolicy" not in plain
    assert plain["args"] == ["sidecar"]


def test_hooks_say_the_token() -> None:
    made = sidecar(choice(hook_token="t" * 16), pod(), grace_s=30)
    (header,) = made["lifecycle"]["preStop"]["httpGet"]["httpHeaders"]
    assert header == {"name": "Coatcheck-Hook-Token", "value": "t" * 16}


def test_its_configuration_and_secrets() -> None:
    given = choice(config_map="tools", secret="bucket")
    made = sidecar(given, pod(), grace_s=30)
    assert made["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert made["volumeMounts"][-1]["mountPath"] == "/etc/coatcheck"
    mounted = {one["name"] for one in made["volumeMounts"]}
    assert {one["name"] for one in volumes(given)} == mounted
    assert all("emptyDir" in one for one in volumes(choice()))
    assert not any("medium" in str(one) for one in volumes(choice()))


def test_resources() -> None:
    usual = resources_in(pod())
    assert usual["limits"]["memory"] == "512Mi"
    even = resources_in(pod({"limits": {"cpu": 1, "memory": "1Gi"}}))
    assert even["requests"] == even["limits"]
    stored = resources_in(pod({"limits": {"ephemeral-storage": "1Gi"}}))
    size = quantity(stored["limits"]["ephemeral-storage"])
    assert size is not None
    assert size >= DATA_BYTES
    assert resources_in(pod(resources={"limits": {"cpu": 1}})) != {}
    whole = read_pod(Draft({"spec": {"containers": [{"name": "a"}], "resources": {"limits": {}}}}))
    assert "resources" not in sidecar(choice(), whole, grace_s=30)
