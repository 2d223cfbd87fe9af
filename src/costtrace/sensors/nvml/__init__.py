"""NVIDIA GPUs by NVML: boards, MIG instances, counters and what they lack."""
