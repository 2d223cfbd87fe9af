"""The names under which a cost is copied for other tools, held against those tools' own code.

Langfuse's server, which is no package, documents `gen_ai.usage.cost` as a cost in USD; OpenLIT, whose name it is, says
the same in code. What Arize reads is in OpenInference, and the other name of Langfuse in its own SDK.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from vllm_server import BUILD

from costtrace.core import semconv

pytestmark = pytest.mark.heavy
BACKENDS = BUILD / "backends" / "bin"
PEERS = Path(os.environ.get("COSTTRACE_PEERS_PYTHON") or BUILD / "peers" / "bin" / "python")


def said(python, module, program):
    """What *program* prints as JSON, with *module* installed beside *python*."""
    have = (
        subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, check=False)
        if python.exists()
        else None
    )
    if have is None or have.returncode != 0:
        pytest.skip(f"{module} is not there: `make test-heavy` installs it")
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


def test_arize_reads_the_costs_of_profile_llm_cost_under_these_names():
    program = "from openinference.semconv.trace import SpanAttributes as S; import json; "
    program += "print(json.dumps([S.LLM_COST_TOTAL, S.LLM_COST_PROMPT, S.LLM_COST_COMPLETION]))"
    ours = [semconv.LLM_COST_TOTAL.name, semconv.LLM_COST_PROMPT.name, semconv.LLM_COST_COMPLETION.name]
    assert said(BACKENDS / "python", "openinference.semconv", program) == ours


def test_langfuses_sdk_writes_cost_details_under_this_name():
    program = "from langfuse._client.attributes import LangfuseOtelSpanAttributes as A; import json; "
    program += "print(json.dumps(A.OBSERVATION_COST_DETAILS))"
    assert said(BACKENDS / "python", "langfuse", program) == semconv.LANGFUSE_COST.name


def test_openlit_writes_a_cost_under_this_name_and_tokens_under_ours():
    program = "from openlit.semcov import SemanticConvention as C; import json; "
    program += "print(json.dumps([C.GEN_AI_USAGE_COST, C.GEN_AI_USAGE_INPUT_TOKENS, C.GEN_AI_USAGE_OUTPUT_TOKENS]))"
    ours = [semconv.GEN_AI_COST.name, semconv.INPUT_TOKENS.name, semconv.OUTPUT_TOKENS.name]
    assert said(PEERS, "openlit", program) == ours
