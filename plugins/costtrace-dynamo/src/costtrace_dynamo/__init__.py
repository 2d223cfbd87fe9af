"""costtrace for NVIDIA Dynamo: who asks, in which role, on which worker; the engine's side is the vLLM plugin's."""
