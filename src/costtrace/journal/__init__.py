"""What an engine process recorded, on disk: append-only, readable after any crash.

Comes in: events, from the thread beside a recorder. Goes out: the same events, to the agent and to
`costtrace journal show`. One directory an engine process, ``$COSTTRACE_HOME/journal/<engine id>/``, with numbered
segment files. `frames` is the format, `writer` the engine's side, `reader` the agent's side, `printer` what people see.

May import: core.
"""
