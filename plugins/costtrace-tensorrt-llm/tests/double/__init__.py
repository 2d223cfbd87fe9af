"""A double of TensorRT-LLM: stand-ins for the classes that the plugin hooks, which behave as public source says."""
