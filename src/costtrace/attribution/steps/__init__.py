"""What a step costs: the model of an engine's steps, fitted while it runs."""
