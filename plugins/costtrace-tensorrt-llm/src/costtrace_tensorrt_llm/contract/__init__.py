"""What of TensorRT-LLM is hooked (`hook_list`), and whether an installed one fits (`check`)."""

from costtrace_tensorrt_llm.contract.check import check_source, summary

__all__ = ["check_source", "summary"]  # what `costtrace doctor` calls
