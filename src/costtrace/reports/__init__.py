"""Reports, pure: rows of a store in, tables out.

`rows` is what a store answers, `tables` what a table is, `summary`, `requests` and `balance` make them, `render`
writes them down as text, CSV or JSON.
"""
