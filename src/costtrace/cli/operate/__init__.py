"""Commands that run the agent and look into journals."""
