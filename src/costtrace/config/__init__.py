"""Every setting, what it means, and where its value comes from.

Comes in: command-line flags, `COSTTRACE_*` variables and one YAML file. Goes out: one immutable `Settings`, each value
with its source, or an error that names the key and the remedy. The readers of YAML and of its fields live here too,
because price books, budgets and configuration share them.

May import: core. An engine's process imports it, so only pydantic and msgspec; yaml only where a file is named.
"""
