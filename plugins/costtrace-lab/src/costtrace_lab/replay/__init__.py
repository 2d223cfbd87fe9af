"""``costtrace replay``: what a recorded journal, or a workload in the simulator, costs by one method or another."""
