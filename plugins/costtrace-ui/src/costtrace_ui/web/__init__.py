"""`costtrace ui`: the ledger as pages in a browser, read-only.

`server` is the socket, `responses` turns a path into a page or JSON, `pages` and `html_parts` (both pure) write HTML.
"""
