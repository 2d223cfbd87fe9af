"""costtrace for NVIDIA Dynamo: who asks, in which role, on which worker. The vLLM plugin measures the engine."""
