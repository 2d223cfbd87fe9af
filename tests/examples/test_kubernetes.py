"""The Kubernetes example, the container file and the systemd units: by published schemas, and by what each must hold.

No cluster can be had here. Kubernetes' own JSON schemas (strict: no field that there is not) stand in for its API
server, `kubectl kustomize` renders where it is there, and what costtrace needs of a pod is held by assertions.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import kubernetes_validate
import pytest
import yaml

from costtrace.config import load as config
from costtrace.pricing.price_book_file import load_price_book

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HERE = EXAMPLES / "kubernetes"
OVERLAYS = ("sidecar", "daemonset")
UNITS = sorted((EXAMPLES / "systemd").iterdir())
OPERATORS = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator: Kubernetes itself has no schema of them."""
VERSIONS = ("1.29", "1.37")

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def collected(folder):
    """All objects of a kustomization, without what kustomize does to names."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects = []
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        objects += collected(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for generated in kustomization.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in generated["files"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    return objects


def workloads(overlay):
    return [one for one in collected(HERE / overlay) if one["kind"] in {"StatefulSet", "DaemonSet", "Deployment"}]


def containers(overlay):
    for workload in workloads(overlay):
        pod = workload["spec"]["template"]["spec"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield workload, pod, container


def plain_environment(container):
    return {one["name"]: one.get("value", "node-1") for one in container.get("env", [])}


def validate(objects):
    for one in objects:
        if one["kind"] not in OPERATORS:
            for version in VERSIONS:
                kubernetes_validate.validate(one, version, strict=True)


@overlays
def test_every_object_is_one_by_kubernetes_own_schemas(overlay):
    validate(collected(HERE / overlay))


def test_a_field_that_there_is_not_is_found():
    [service] = [one for one in collected(HERE / "base") if one["kind"] == "Service"]
    service["spec"]["selecter"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate([service])


@overlays
def test_kustomize_renders_it_into_one_namespace_with_nothing_lost(overlay):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not there: it has kustomize in it")
    command = ["kubectl", "kustomize", str(HERE / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    validate(rendered)
    expected = {(one["kind"], one["metadata"]["name"]) for one in collected(HERE / overlay)}
    names = {(one["kind"], re.sub(r"^(costtrace-prices)-\w+$", r"\1", one["metadata"]["name"])) for one in rendered}
    assert names == expected
    assert {one["metadata"].get("namespace", "llm") for one in rendered} == {"llm"}
    hashed = next(one["metadata"]["name"] for one in rendered if one["metadata"]["name"].startswith("costtrace-prices"))
    assert done.stdout.count(f"name: {hashed}\n") == 2, "the agent mounts the prices by their hashed name"


@overlays
def test_nothing_runs_as_root_or_writes_where_it_need_not(overlay):
    for _, pod, container in containers(overlay):
        context = pod["securityContext"] | container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert "privileged" not in context
        assert pod["automountServiceAccountToken"] is False
        assert "hostNetwork" not in pod
        assert "hostPID" not in pod
        if container["name"] == "own-the-directory":
            assert context["capabilities"]["add"] == ["CHOWN"]
        else:
            assert (context["runAsNonRoot"], context["runAsUser"]) == (True, 10001)
            assert "add" not in context["capabilities"]
        if container["name"] != "vllm":
            assert context["readOnlyRootFilesystem"] is True


@overlays
def test_the_agent_sees_all_gpus_and_takes_none(overlay):
    by_name = {container["name"]: (pod, container) for _, pod, container in containers(overlay)}
    pod, agent = by_name["costtrace-agent"]
    environment = plain_environment(agent)
    assert (environment["NVIDIA_VISIBLE_DEVICES"], environment["NVIDIA_DRIVER_CAPABILITIES"]) == ("all", "utility")
    assert pod["runtimeClassName"] == "nvidia"
    assert not any("nvidia" in name for part in agent["resources"].values() for name in part)
    assert by_name["vllm"][1]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@overlays
def test_engine_and_agent_have_settings_that_fit_each_other(overlay):
    by_name = {container["name"]: (pod, container) for _, pod, container in containers(overlay)}
    loaded = {}
    for name in ("vllm", "costtrace-agent"):
        env = {k: v for k, v in plain_environment(by_name[name][1]).items() if k.startswith("COSTTRACE_")}
        loaded[name] = config.load(env=env)
    engine, agent = loaded["vllm"], loaded["costtrace-agent"]
    assert (engine.home, engine.host, engine.agent) == (agent.home, agent.host, "external")
    [port] = by_name["costtrace-agent"][1]["ports"]
    assert (port["containerPort"], agent.prometheus_host) == (agent.prometheus_port, "0.0.0.0")
    volumes = {}
    for name, (pod, container) in by_name.items():
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        there = {volume["name"]: volume for volume in pod["volumes"]}
        claims = [
            one["metadata"]["name"] for w in workloads(overlay) for one in w["spec"].get("volumeClaimTemplates", [])
        ]
        assert set(mounts.values()) <= {*there, *claims}, name
        volumes[name] = there.get(mounts["/var/lib/costtrace"], mounts["/var/lib/costtrace"])
        assert str(agent.home).startswith("/var/lib/costtrace/")
    assert volumes["vllm"] == volumes["costtrace-agent"], "one home, on one volume"
    if overlay == "sidecar":
        assert by_name["vllm"][0] is by_name["costtrace-agent"][0]
        assert by_name["vllm"][0]["shareProcessNamespace"] is True


@overlays
def test_selectors_find_their_pods_and_ports(overlay):
    objects = collected(HERE / overlay)
    pods = [one["spec"]["template"] for one in workloads(overlay)]
    for workload in workloads(overlay):
        wanted = workload["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()

    def chosen(selector):
        return [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]

    def ports(pod):
        return {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", [])}

    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert chosen(spec["selector"]), one["metadata"]["name"]
            for pod in chosen(spec["selector"]):
                assert {port["targetPort"] for port in spec["ports"]} <= ports(pod)
        if one["kind"] == "NetworkPolicy":
            assert chosen(spec["podSelector"]["matchLabels"]), one["metadata"]["name"]
            for rule in spec.get("ingress", []):
                assert rule["from"], "from nobody in particular is from everybody"
                for pod in chosen(spec["podSelector"]["matchLabels"]):
                    assert {port["port"] for port in rule["ports"]} <= ports(pod)
    covered = [one["spec"]["podSelector"]["matchLabels"] for one in objects if one["kind"] == "NetworkPolicy"]
    assert all(any(pod in chosen(labels) for labels in covered) for pod in pods)


def test_prometheus_finds_the_agents_by_their_service():
    objects = {one["kind"]: one for one in collected(HERE / "base") if one["kind"] in {"Service", "ServiceMonitor"}}
    service, monitor = objects["Service"], objects["ServiceMonitor"]
    assert set(monitor["spec"]) <= {"selector", "endpoints", "namespaceSelector", "jobLabel"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {end["port"] for end in monitor["spec"]["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_rules_dashboards_and_prices_are_those_of_the_other_examples():
    objects = collected(HERE / "base")
    [rule] = [one for one in objects if one["kind"] == "PrometheusRule"]
    written = [yaml.safe_load(path.read_text())["groups"] for path in (EXAMPLES / "prometheus").glob("*.yaml")]
    names = sorted(group["name"] for groups in written for group in groups)
    assert sorted(group["name"] for group in rule["spec"]["groups"]) == names
    boards = {name: text for one in objects if one["kind"] == "ConfigMap" for name, text in one["data"].items()}
    for path in (EXAMPLES / "grafana").glob("*.json"):
        assert json.loads(boards[path.name]) == json.loads(path.read_text())
    assert load_price_book(HERE / "base" / "prices.yaml").devices


def test_what_is_generated_is_fresh_and_what_is_stale_is_named(tmp_path):
    tool = [sys.executable, str(ROOT / "tools" / "gen_kubernetes.py"), "--check"]
    fresh = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert fresh.returncode == 0, fresh.stderr
    shutil.copytree(HERE / "base", tmp_path / "base")
    rules = tmp_path / "base" / "prometheusrule.yaml"
    rules.write_text(rules.read_text().replace("severity: warning", "severity: info"))
    stale = subprocess.run([*tool, "--base", str(tmp_path / "base")], capture_output=True, text=True, check=False)
    assert stale.returncode == 1
    assert "prometheusrule.yaml" in stale.stderr
    assert "dashboards.yaml" not in stale.stderr


def test_promtool_accepts_the_rules_as_the_operator_gets_them(tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not there")
    [rule] = [one for one in collected(HERE / "base") if one["kind"] == "PrometheusRule"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_container_file_copies_what_exists_and_ends_as_nobody():
    text = (EXAMPLES / "container" / "Containerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
    [user] = re.findall(r"^USER (\d+):", text, re.MULTILINE)
    assert all(pod["securityContext"]["runAsUser"] == int(user) for o in OVERLAYS for _, pod, _ in containers(o))
    extras = re.search(r"/src\[([\w,]+)\]", text)[1].split(",")
    known = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", known, re.MULTILINE) for extra in extras)


@pytest.fixture
def units(tmp_path):
    """The units with a `costtrace` that there is."""
    program = Path(sys.executable).with_name("costtrace")
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/vllm/bin/costtrace", str(program)))
    return tmp_path


def test_systemd_accepts_the_units_and_finds_them_closed(units):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not there")
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    mine = [line for line in done.stderr.splitlines() if str(units) in line or "costtrace" in line]
    assert (done.returncode, mine) == (0, [])
    for service in units.glob("*.service"):
        judge = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(service)]
        judged = subprocess.run(judge, capture_output=True, text=True, check=False, timeout=60)
        assert judged.returncode == 0, judged.stdout[-300:]


def test_the_units_run_commands_that_there_are_with_settings_that_there_are():
    from costtrace.cli.app import cli

    known = cli.list_commands(click.Context(cli))

    for path in UNITS:
        text = path.read_text()
        lines = re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)
        assert lines
        for key, value in lines:
            if key == "ExecStart":
                assert re.search(r"costtrace (\w+)", value)[1] in known
        config.load(env=dict(value.split("=", 1) for key, value in lines if key == "Environment" and "COSTTR" in value))
        if path.suffix == ".timer":
            assert path.with_suffix(".service") in UNITS


def test_the_agents_unit_has_descriptors_for_many_engines_and_connections():
    lines = (EXAMPLES / "systemd" / "costtrace-agent.service").read_text().splitlines()
    assert "LimitNOFILE=65536" in lines
