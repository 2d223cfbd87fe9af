"""``python -m costtrace``."""

from costtrace.cli import main

main()
