"""Programs that reproduce the figures of docs/method.md from public data. See README.md here."""
