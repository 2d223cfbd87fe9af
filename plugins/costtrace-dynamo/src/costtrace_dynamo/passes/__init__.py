"""``costtrace dynamo``: Dynamo's own records of forward passes and requests, as a check of the bill or an estimate.

trace_files      reads what Dynamo's workers and frontend write
forward_passes   adds up each worker's passes; splits them over requests, by estimate (pure)
busy_query       what the ledger attributed to each worker
pass_tables      both side by side, and the estimate, as tables (pure)
command          the command line
"""
