"""costtrace for vLLM: hooks in the server and in the engine core, through vLLM's own plugin entry point."""
