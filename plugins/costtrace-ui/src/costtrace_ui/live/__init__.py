"""What `costtrace ui` and `costtrace top` both show: queries of the last minutes, their figures, their columns."""
