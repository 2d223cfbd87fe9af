"""Usage and cost by tenant, model and time."""
