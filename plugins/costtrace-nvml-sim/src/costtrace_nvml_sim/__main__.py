"""``python -m costtrace_nvml_sim``."""

from costtrace_nvml_sim.command import nvml_sim

if __name__ == "__main__":
    nvml_sim(prog_name="costtrace nvml-sim")
