"""Runs the real nvidia-ml-py on the simulated NVML (the double), in a separate process, and returns its readings."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costtrace_nvml_sim.runner import Prepared, prepare
from costtrace_nvml_sim.scenario import parse_scenario
from costtrace_nvml_sim.truth import Truth

PRELUDE = """
import json, sys
import pynvml as nvml
from costtrace_nvml_sim.clock import VirtualClock

params = json.loads(sys.argv[1])
clock = VirtualClock(params["clock"]) if params["clock"] else None

def attempt(function, *args):
    try:
        return function(*args)
    except nvml.NVMLError as error:
        return type(error).__name__

def field(handle, *what):
    value = nvml.nvmlDeviceGetFieldValues(handle, [what if len(what) > 1 else what[0]])[0]
    if value.nvmlReturn:
        return {"error": value.nvmlReturn}
    shown = value.value.ullVal if value.valueType == nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG else value.value.uiVal
    return {"value": shown, "timestamp": value.timestamp, "latency": value.latencyUsec}

if params["init"]:
    nvml.nvmlInit()
    devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
"""


@dataclass
class Double:
    prepared: Prepared

    @property
    def truth(self) -> Truth:
        return Truth(self.prepared.compiled)

    def start(self, script: str, *, init: bool = True, **params: Any) -> subprocess.CompletedProcess[str]:
        clock = self.prepared.clock_path
        arguments = json.dumps({"clock": str(clock) if clock else None, "init": init, **params})
        code = PRELUDE + script + "\nprint(json.dumps(out, default=lambda c_number: c_number.value))\n"
        command = [sys.executable, "-c", code, arguments]
        environment = self.prepared.environment()
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=120
        )

    def read(self, script: str, *, init: bool = True, **params: Any) -> Any:
        done = self.start(script, init=init, **params)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def double(directory: Path, *devices: dict[str, Any], **scenario: Any) -> Double:
    data = {"clock": "virtual", "devices": list(devices), **scenario}
    return Double(prepare(parse_scenario(data), directory))
