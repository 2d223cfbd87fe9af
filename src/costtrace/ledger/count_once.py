"""SQL by which each token of a request with several parts counts once, as `reports.requests.joined` counts them.

Parts say themselves what of them counts (`counted_*`, and `part` 1 counts the request). What none of them can know is
corrected here: that an attempt was not the first one. So are parts of before, which do not say it. Then the prompt
counts with the request's first part, the request with its first answer, and the tokens of the answer with the part that
gave them to the client. Window functions are what SQLite and ClickHouse both have.
"""

from costtrace.core.rows import DISAGGREGATED, JOINED
from costtrace.ledger.schema.closing import TOKENS


def _begins(prefix: str) -> str:
    return f"u.request_key >= '{prefix}' AND u.request_key < '{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}'"


IS_JOINED = f"({_begins(JOINED)} OR {_begins(DISAGGREGATED)})"
"""Whether usage record u is a part that is joined with others. Ranges of keys, so that an index finds them."""
IS_REQUEST = "CASE WHEN u.part = 1 AND u.attempt = 1 THEN 1 ELSE 0 END"
"""1 where usage record u counts its request, else 0: another part counts it."""
INPUT, CACHED, OUTPUT = (f"coalesce(u.counted_{name}, u.{name}_tokens)" for name in TOKENS)
"""What of the tokens of usage record u counts in sums."""
IS_BESIDE = "(u.part > 1 AND u.role != 'prefill' AND u.request_key NOT LIKE '%/%')"
"""As `UsageRecord.is_beside`: no attempt after another one."""
_REQUEST = "u.request_key, u.tenant"
"""A request's parts: nobody's key reaches another tenant's."""
_STAGE = f"{_REQUEST}, CASE WHEN u.role = 'prefill' THEN 0 ELSE 1 END"
_BY_ARRIVAL = "ORDER BY u.arrived_ns, u.record_id"
_PARTS = f"""(
    SELECT u.*, row_number() OVER (PARTITION BY {_REQUEST} {_BY_ARRIVAL}) AS place,
        row_number() OVER (PARTITION BY {_REQUEST} ORDER BY CASE WHEN u.role = 'prefill' THEN 1 ELSE 0 END,
            u.arrived_ns, u.record_id) AS answer_place,
        max(CASE WHEN u.role = 'prefill' THEN 0 ELSE 1 END) OVER (PARTITION BY {_REQUEST}) AS answered,
        lead(u.input_tokens) OVER (PARTITION BY {_STAGE} {_BY_ARRIVAL}) AS next_input,
        max(u.nth) OVER (PARTITION BY {_REQUEST}) AS attempts,
        min(u.marked) OVER (PARTITION BY {_REQUEST}) AS sure
    FROM (
        SELECT u.*, row_number() OVER (PARTITION BY {_STAGE} {_BY_ARRIVAL}) AS nth,
            CASE WHEN u.part = 1 AND u.counted_input IS NULL AND u.counted_output IS NULL THEN 0 ELSE 1 END AS marked
        FROM usage u WHERE {IS_JOINED} AND NOT {IS_BESIDE}
            -- All parts of those requests of which a part ended in the period.
            AND u.request_key IN (SELECT k.request_key FROM usage k
                WHERE k.ended_ns >= :since AND k.ended_ns < :until AND {IS_JOINED.replace("u.", "k.")})
    ) u
)"""  # noqa: S608 - made of constants
# Parts that say themselves what of them counts are right already, unless their worker was lost and another went on.
_CORRECTED = "u.sure = 0 OR u.attempts > 1"
# Prompts of one call of a frontend are `<id>/0`, `<id>/1`, ...: the first one's parts count the call.
_LATER_PROMPT = "u.request_key LIKE '%/%' AND NOT u.request_key LIKE '%/0'"

_PLAIN = """sum(u.requests), sum(u.parts), coalesce(sum(u.input_tokens), 0), coalesce(sum(u.cached_tokens), 0),
    coalesce(sum(u.output_tokens), 0), coalesce(sum(u.computed_tokens), 0), coalesce(sum(u.preemptions), 0)"""
_ONCE = (
    f"CASE WHEN u.answer_place = 1 AND NOT ({_LATER_PROMPT}) THEN 1 ELSE 0 END - {IS_REQUEST}",
    f"CASE WHEN u.place = 1 THEN u.input_tokens ELSE 0 END - {INPUT}",
    f"CASE WHEN u.place = 1 AND u.role != 'decode' THEN u.cached_tokens ELSE 0 END - {CACHED}",
    f"""CASE
        WHEN u.role = 'prefill' AND (u.answered = 1 OR u.next_input IS NOT NULL
            OR u.finish_reasons LIKE '%"length"%') THEN 0
        WHEN u.next_input IS NULL THEN u.output_tokens
        WHEN u.next_input > u.input_tokens THEN u.next_input - u.input_tokens
        ELSE 0 END - {OUTPUT}""",
)
CORRECTED_KEYS = f"""
    SELECT u.request_key FROM {_PARTS} u WHERE ({_CORRECTED}) AND ({" OR ".join(f"{once} != 0" for once in _ONCE)})
"""  # noqa: S608 - made of constants
"""Keys of requests of which a part ended in the period and that are counted otherwise than the sums of their parts."""
_REQUESTS, *_TOKENS = (f"coalesce(sum(CASE WHEN {_CORRECTED} THEN {once} ELSE 0 END), 0)" for once in _ONCE)
_ONCE_LESS_PLAIN = f"{_REQUESTS}, 0, {', '.join(_TOKENS)}, 0, 0"

COUNTED = (("usage_line", _PLAIN), (_PARTS, _ONCE_LESS_PLAIN))
"""Sources of usage records (as u), and their sums: requests, parts, tokens by kind, computed, preemptions.

The first counts every record for itself. The second is what this counts more than once for requests with several parts,
as negative sums; it counts when the record ended, even if the record was booked late. Roll-ups are not corrected.
Both take the parameters `since` and `until`.
"""
