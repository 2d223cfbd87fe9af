"""The journal: what an engine process recorded, on disk, append-only, readable after any crash.

One directory an engine process, ``$COSTTRACE_HOME/journal/<engine id>/``, with numbered segment files. `frames` is
the format, `writer` the engine's side, `reader` the agent's side.
"""
