"""costtrace: per-request GPU time, energy and cost, in rows that add up to the meter.

errors units events usage semconv     the vocabulary
apportion virtual_time step_model timeline sharing open_requests attribution node rating conserve reports
                                      pure arithmetic: events in, rows out
recorder journal tenancy config       the engine's side
ledger sensors emit agent             the agent's side
cli demo testing                      for people
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - engines that never ask do not pay for it

    return version("costtrace-core")
