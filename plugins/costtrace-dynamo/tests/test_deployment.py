"""The Kubernetes example: each worker beside an agent, with one home for both."""

from pathlib import Path

from yaml import safe_load

ROOT = Path(__file__).parents[3]


def test_each_worker_has_an_agent_beside_it_that_shares_its_home():
    deployment = safe_load((ROOT / "examples" / "dynamo" / "dynamographdeployment.yaml").read_text())
    assert (deployment["apiVersion"], deployment["kind"]) == ("nvidia.com/v1beta1", "DynamoGraphDeployment")
    workers = [part for part in deployment["spec"]["components"] if part["type"] != "frontend"]
    assert {part["type"] for part in workers} == {"prefill", "decode"}
    for part in workers:
        pod = part["podTemplate"]["spec"]
        main, agent = pod["containers"]
        homes = [{e["name"]: e.get("value") for e in c["env"]}["COSTTRACE_HOME"] for c in (main, agent)]
        assert (main["name"], homes[0], agent["command"]) == ("main", homes[1], ["costtrace", "agent"])
        assert f"--disaggregation-mode={part['type']}" in main["args"]
        mounts = {m["mountPath"]: m for m in main["volumeMounts"]}
        assert mounts[homes[0]] in agent["volumeMounts"], "both have the volume of the journals"
        assert {m["name"] for m in agent["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
