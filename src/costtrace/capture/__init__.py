"""Everything that runs inside an engine's process, and the small files it and the agent share.

Comes in: an engine's own calls, through the hooks of a plugin. Goes out: events in a journal (`recorder` ->
`journal_thread` -> `journal`), by an append that costs about a microsecond a step. Whatever fails here is swallowed and
counted (`core.guard`): serving is never harmed. `tenancy` says who pays; `node_files` are the files by which
the agent and the engines of a node inform each other: lock, status, estimates, refusals.

May import: core, config, journal. Only libraries that an engine has anyway: msgspec, pydantic.
"""
