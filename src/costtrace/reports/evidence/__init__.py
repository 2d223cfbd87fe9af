"""What shows that the figures hold: balance, energy, the step model, carbon."""
