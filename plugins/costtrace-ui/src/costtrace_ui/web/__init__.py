"""`costtrace ui`: the ledger as pages in a browser, read-only. `frame` and `pages` are pure; `server` is the socket."""
