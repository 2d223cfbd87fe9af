"""SQL by which each token of a request with several parts counts once, as `reports.requests.joined` counts them.

The prompt counts with the request's first part, the answer with the part that gave it to the client. It is written with
window functions, which SQLite and ClickHouse both have.
"""

from costtrace.core.rows import JOINED

IS_JOINED = f"u.request_key >= '{JOINED}' AND u.request_key < '{JOINED[:-1]}{chr(ord(JOINED[-1]) + 1)}'"
"""Whether usage record u is a part that is joined with others. A range of keys, so that an index finds them."""

_PARTS = f"""(
    SELECT u.*, row_number() OVER (PARTITION BY u.request_key ORDER BY u.arrived_ns, u.record_id) AS place,
        max(CASE WHEN u.role = 'prefill' THEN 0 ELSE 1 END) OVER (PARTITION BY u.request_key) AS answered,
        lead(u.input_tokens) OVER (PARTITION BY u.request_key, CASE WHEN u.role = 'prefill' THEN 0 ELSE 1 END
            ORDER BY u.arrived_ns, u.record_id) AS next_input
    FROM usage u WHERE {IS_JOINED}
        -- All parts of those requests of which a part ended in the period.
        AND u.request_key IN (SELECT k.request_key FROM usage k WHERE k.ended_ns >= :since AND k.ended_ns < :until)
)"""  # noqa: S608 - made of constants

_PLAIN = """sum(u.requests), sum(u.parts), coalesce(sum(u.input_tokens), 0), coalesce(sum(u.cached_tokens), 0),
    coalesce(sum(u.output_tokens), 0), coalesce(sum(u.computed_tokens), 0), coalesce(sum(u.preemptions), 0)"""
_ONCE_LESS_PLAIN = """sum(CASE WHEN u.place = 1 THEN 1 ELSE 0 END)
    - sum(CASE WHEN u.part = 1 AND u.attempt = 1 THEN 1 ELSE 0 END), 0,
    coalesce(sum(CASE WHEN u.place = 1 THEN 0 ELSE 0 - u.input_tokens END), 0),
    coalesce(sum(CASE WHEN u.place = 1 AND u.role != 'decode' THEN 0 ELSE 0 - u.cached_tokens END), 0),
    coalesce(sum(CASE
        WHEN u.role = 'prefill' AND (u.answered = 1 OR u.next_input IS NOT NULL
            OR u.finish_reasons LIKE '%"length"%') THEN 0
        WHEN u.next_input IS NULL THEN u.output_tokens
        WHEN u.next_input > u.input_tokens THEN u.next_input - u.input_tokens
        ELSE 0 END - u.output_tokens), 0), 0, 0"""

COUNTED = (("usage_line", _PLAIN), (_PARTS, _ONCE_LESS_PLAIN))
"""Sources of usage records (as u), and their sums: requests, parts, tokens by kind, computed, preemptions.

The first counts every record for itself. The second is what this counts more than once for requests with several parts,
as negative sums; it counts when the record ended, even if the record was booked late. Roll-ups are not corrected.
Both take the parameters `since` and `until`.
"""
