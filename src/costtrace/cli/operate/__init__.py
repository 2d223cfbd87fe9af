"""Commands that run the agent, look into journals, and keep the ledger small and safe."""
