"""The form for Kubernetes against what is published: the Kubernetes client's own models, and Dynamo's types as read.

Dynamo's operator cannot be had here; its v1beta1 types say what a component may have (the Go source of its API).
"""

import json
import re
import subprocess
from pathlib import Path

import pytest
from vllm_server import BUILD
from yaml import safe_load

FORM = Path(__file__).parents[2] / "examples" / "dynamo" / "dynamographdeployment.yaml"
NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?")
VERSION_TAG = re.compile(r".+:\d+\.\d+\.\d+")
ROUND_TRIP = """
import json, sys
from types import SimpleNamespace
from kubernetes.client import ApiClient

client = ApiClient()
read = [client.deserialize(SimpleNamespace(data=json.dumps(one)), "V1PodTemplateSpec") for one in json.load(sys.stdin)]
json.dump(client.sanitize_for_serialization(read), sys.stdout)
"""


@pytest.fixture(scope="module")
def components():
    return safe_load(FORM.read_text())["spec"]["components"]


def test_each_component_has_what_dynamos_type_wants_and_nothing_that_it_does_not_have(components):
    for component in components:
        assert set(component) == {"name", "type", "replicas", "podTemplate"}
        assert NAME.fullmatch(component["name"])
        containers = {one["name"]: one for one in component["podTemplate"]["spec"]["containers"]}
        assert all(one["image"] for one in containers.values()), "a sidecar brings its own"
        assert VERSION_TAG.fullmatch(containers["main"]["image"]), "else admission wants a runtimeVersionOverride"
    assert len({component["name"] for component in components}) == len(components)


def test_each_pod_is_one_by_the_kubernetes_clients_own_models(components):
    python = BUILD / "dynamo" / "vllm" / "venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("the Kubernetes client is not there: `make setup-dynamo` installs it with Dynamo")
    pods = [component["podTemplate"] for component in components]
    done = subprocess.run(
        [str(python), "-c", ROUND_TRIP], input=json.dumps(pods), capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == pods, "a field that no model knows would be gone"
