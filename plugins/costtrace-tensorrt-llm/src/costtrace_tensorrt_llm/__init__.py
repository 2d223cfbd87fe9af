"""costtrace for TensorRT-LLM's PyTorch backend. It has never run against the real package: see docs/tensorrt-llm.md."""
