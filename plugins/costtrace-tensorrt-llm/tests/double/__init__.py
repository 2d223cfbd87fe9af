"""A double of TensorRT-LLM: what the plugin hooks, without the package."""
