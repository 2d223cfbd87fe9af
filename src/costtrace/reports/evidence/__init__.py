"""What shows that the figures are right: balance, energy, the step model, carbon."""
