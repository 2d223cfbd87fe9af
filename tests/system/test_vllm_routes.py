"""Every route of the oldest and the newest vLLM is known: none lets a tenant that is refused make an engine work."""

import re

import pytest
from costtrace_vllm.server_side.routes import WORK, last_part
from vllm_server import oldest_and_newest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(60)]

ROUTE = re.compile(r"""(?:router|app)\.(?:post|websocket|api_route)\(\s*["']([^"']+)["']""")
NO_WORK = {
    *("abort_requests", "apply", "cancel", "collective_rpc", "count_tokens", "derender", "detokenize"),
    *("finish_weight_update", "init_weight_transfer_engine", "is_scaling_elastic_ep", "load_lora_adapter", "pause"),
    *("ping", "release_kv_cache_memory", "render", "reset_encoder_cache", "reset_mm_cache", "reset_prefix_cache"),
    *("resume", "scale_elastic_ep", "shutdown_weight_transfer_engine", "sleep", "start_draft_weight_update"),
    *("start_profile", "start_weight_update", "stop_profile", "tokenize", "unload_lora_adapter"),
    *("update_weight_version", "update_weights", "wake_up", "weight_checker"),
}
"""They count, render, or are the operator's."""


@oldest_and_newest
def test_a_route_makes_an_engine_work_or_is_known_not_to(vllm_environment):
    (package,) = (vllm_environment / "venv" / "lib").glob("python3*/site-packages/vllm/entrypoints")
    paths = {path for file in package.rglob("*.py") for path in ROUTE.findall(file.read_text(encoding="utf-8"))}
    assert {"/v1/chat/completions", "/invocations", "/v1/realtime", "/tokenize"} <= paths, "routes are found"
    unknown = {path for path in paths if last_part(path) not in WORK | NO_WORK}
    assert not unknown, "does it make an engine work? Put it into costtrace_vllm/server_side/routes.py, or into NO_WORK"
