"""The live pages: `costtrace ui` in a browser, `costtrace top` on a terminal, both from the same figures."""
