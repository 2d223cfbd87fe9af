"""Tables of closed periods: seals, adjustments, hour roll-ups; and the views through which reports read all rows.

A row that arrives for a closed period is *late*: triggers give it a booking time in the open period, in the same
transaction, whatever program writes it.
"""

HOUR = "3600000000000"

_QUANTITIES = """
        gpu_ns INTEGER NOT NULL,
        prefill_ns INTEGER NOT NULL,
        decode_ns INTEGER NOT NULL,
        wasted_ns INTEGER NOT NULL,
        energy_uj INTEGER,
        prefill_uj INTEGER,
        decode_uj INTEGER,
        wasted_uj INTEGER,
        gap_ns INTEGER NOT NULL,
"""
POSTED = (
    "engine_id, kind, reason, record_id, tenant, model, gpu_ns, prefill_ns, decode_ns, wasted_ns, energy_uj, "
    "prefill_uj, decode_uj, wasted_uj, gap_ns, method, rate_id, device_nano, energy_nano"
)
_NOW = "max(CAST(strftime('%s', 'now') AS INTEGER) * 1000000000, (SELECT max(until_ns) FROM seal))"
QUANTITIES = tuple(line.split()[0] for line in _QUANTITIES.strip().splitlines())
ADJUSTED = "CASE WHEN period = '' THEN reason ELSE trim(reason || ' adjustment of ' || period) END"

CLOSING = f"""
    -- The chain of closed periods. kind: close, and later perhaps compact. Each names the hash of the one before.
    CREATE TABLE seal (
        seal_id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL CHECK (kind IN ('close', 'compact')),
        period TEXT NOT NULL,
        since_ns INTEGER NOT NULL,
        until_ns INTEGER NOT NULL,
        at_ns INTEGER NOT NULL,
        content TEXT NOT NULL,             -- JSON: rows and digest of each part, totals
        previous TEXT NOT NULL,            -- hash of the seal before; '' of the first
        hash TEXT NOT NULL,
        UNIQUE (kind, period)
    ) STRICT;
    -- A digest of every sealed row, so that a row that was changed can be named. Covered by the seal's own hash.
    CREATE TABLE seal_block (
        seal_id INTEGER NOT NULL,
        part TEXT NOT NULL,                -- posting, usage, meter, adjustment, rerate, rate, rollup, usage_rollup
        block INTEGER NOT NULL,
        digests BLOB NOT NULL,             -- 8 bytes of row number and 8 of digest for each row
        PRIMARY KEY (seal_id, part, block)
    ) STRICT;

    CREATE TABLE late_posting (posting_id INTEGER PRIMARY KEY, booked_ns INTEGER NOT NULL) STRICT;
    CREATE TABLE late_usage (usage_id INTEGER PRIMARY KEY, booked_ns INTEGER NOT NULL) STRICT;
    CREATE TABLE late_meter (
        engine_id TEXT NOT NULL, device TEXT NOT NULL, start_ns INTEGER NOT NULL, booked_ns INTEGER NOT NULL,
        PRIMARY KEY (engine_id, device, start_ns)
    ) STRICT;
    CREATE TRIGGER posting_is_late AFTER INSERT ON posting
    WHEN NEW.window_ns < (SELECT max(until_ns) FROM seal)
    BEGIN INSERT INTO late_posting VALUES (NEW.posting_id, {_NOW}); END;
    CREATE TRIGGER usage_is_late AFTER INSERT ON usage
    WHEN NEW.ended_ns < (SELECT max(until_ns) FROM seal)
    BEGIN INSERT INTO late_usage VALUES (NEW.usage_id, {_NOW}); END;
    CREATE TRIGGER meter_is_late AFTER INSERT ON meter
    WHEN NEW.window_ns < (SELECT max(until_ns) FROM seal)
    BEGIN INSERT INTO late_meter VALUES (NEW.engine_id, NEW.device, NEW.start_ns, {_NOW}); END;

    -- One re-rating, and what it came to: JSON, nano-units by currency.
    CREATE TABLE rerate (
        run_id INTEGER PRIMARY KEY,
        at_ns INTEGER NOT NULL,
        price_book TEXT NOT NULL,
        since_ns INTEGER NOT NULL,
        until_ns INTEGER NOT NULL,
        why TEXT NOT NULL,
        before TEXT NOT NULL,
        after TEXT NOT NULL
    ) STRICT;
    -- A posting's charge is taken back at its old rate and made at its new one. The posting itself stays.
    CREATE TABLE adjustment (
        adjustment_id INTEGER PRIMARY KEY,
        run_id INTEGER NOT NULL,
        booked_ns INTEGER NOT NULL,        -- its window, or the time of re-rating where the posting's period is closed
        period TEXT NOT NULL,              -- the closed period that it corrects; '' in an open one
        posting_id INTEGER NOT NULL,
        window_ns INTEGER NOT NULL,
        engine_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT NOT NULL,
        record_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        model TEXT NOT NULL,
        {_QUANTITIES}
        method TEXT NOT NULL,
        operation TEXT NOT NULL,           -- of its usage record, if there was one
        from_rate_id TEXT NOT NULL,
        from_device_nano INTEGER,
        from_energy_nano INTEGER,
        rate_id TEXT NOT NULL,
        device_nano INTEGER,
        energy_nano INTEGER
    ) STRICT;
    CREATE INDEX adjustment_by_posting ON adjustment (posting_id);
    CREATE INDEX adjustment_by_booking ON adjustment (booked_ns);

    -- Postings of a closed period by the hour. What is unknown is a row of its own, as in the postings.
    CREATE TABLE rollup (
        rollup_id INTEGER PRIMARY KEY,
        window_ns INTEGER NOT NULL,        -- the hour begins
        engine_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        reason TEXT NOT NULL,
        tenant TEXT NOT NULL,
        model TEXT NOT NULL,
        operation TEXT NOT NULL,
        {_QUANTITIES}
        method TEXT NOT NULL,
        rate_id TEXT NOT NULL,
        device_nano INTEGER,
        energy_nano INTEGER,
        postings INTEGER NOT NULL,
        last_posting INTEGER NOT NULL      -- number of the last posting in it
    ) STRICT;
    CREATE INDEX rollup_by_window ON rollup (window_ns);
    CREATE TABLE usage_rollup (
        rollup_id INTEGER PRIMARY KEY,
        ended_ns INTEGER NOT NULL,         -- the hour begins
        engine_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        tenant_source TEXT NOT NULL,
        model TEXT NOT NULL,
        operation TEXT NOT NULL,
        role TEXT NOT NULL,
        method TEXT NOT NULL,
        finish_reasons TEXT NOT NULL,
        currency TEXT NOT NULL,
        price_book TEXT NOT NULL,
        requests INTEGER NOT NULL,
        parts INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        computed_tokens INTEGER NOT NULL,
        preemptions INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX usage_rollup_by_end ON usage_rollup (ended_ns);

    -- All quantities that were ever posted, at the charge of their posting.
    CREATE VIEW posted AS
        SELECT posting_id, window_ns, '' AS operation, {POSTED} FROM posting
        UNION ALL
        SELECT 0, window_ns, operation, {POSTED.replace("record_id", "''")} FROM rollup;
    -- Replaced by BOOKED.
    CREATE VIEW line AS SELECT 1;
    CREATE VIEW usage_line AS SELECT 1;
"""  # noqa: S608 - constants

FLEET = """
    -- What a fleet store can have too, where numbers of postings are those of many ledgers.
    CREATE VIEW late_posting_line AS
        SELECT p.engine_id, l.posting_id, l.booked_ns FROM late_posting l JOIN posting p ON p.posting_id = l.posting_id;
    CREATE VIEW compacted AS SELECT since_ns, until_ns FROM seal WHERE kind = 'compact';
"""

MOVED = "CASE WHEN period = '' THEN {sign}{name} ELSE 0 END"
"""A quantity in an adjustment's two lines: of a closed period it moves money alone, since the time is billed there."""
_ADJUSTMENT = (
    "SELECT booked_ns, operation, engine_id, kind, {reason}, record_id, tenant, model, {quantities}, method, {charge} "
    "FROM adjustment"
)
_BACK, _INSTEAD = (
    _ADJUSTMENT.format(
        reason=ADJUSTED, quantities=", ".join(MOVED.format(sign=sign, name=name) for name in QUANTITIES), charge=charge
    )
    for sign, charge in (
        ("-", "from_rate_id, -from_device_nano, -from_energy_nano"),
        ("", "rate_id, device_nano, energy_nano"),
    )
)
ENDED = (
    "engine_id, tenant, tenant_source, {user}, {labels}, model, operation, role, method, finish_reasons, currency, "
    "price_book, {counts}, computed_tokens, preemptions"
)
TOKENS = ("input", "cached", "output")
"""Kinds of tokens that count in sums: of each a part has `<kind>_tokens`, and in `counted_<kind>` what counts."""
COUNTED_TOKENS = ", ".join(f"coalesce(counted_{name}, {name}_tokens) AS {name}_tokens" for name in TOKENS)
_PART = ENDED.format(
    user='"user"',
    labels="labels",
    counts=f"CASE WHEN part = 1 AND attempt = 1 THEN 1 ELSE 0 END AS requests, 1 AS parts, {COUNTED_TOKENS}",
)
ROLLED_TOKENS = "requests, parts, input_tokens, cached_tokens, output_tokens"
_ROLLED = ENDED.format(user="'' AS \"user\"", labels="'{}' AS labels", counts=ROLLED_TOKENS)
BOOKED = f"""
    -- The bill: what was posted where it is booked, and every adjustment (the old charge back, the new one instead).
    DROP VIEW line;
    CREATE VIEW line AS
        SELECT window_ns, '' AS operation, {POSTED} FROM posting
            WHERE posting_id NOT IN (SELECT posting_id FROM late_posting)
        UNION ALL
        SELECT l.booked_ns, '', {POSTED} FROM late_posting l JOIN posting p ON p.posting_id = l.posting_id
        UNION ALL
        SELECT window_ns, operation, {POSTED.replace("record_id", "''")} FROM rollup
        UNION ALL
        {_BACK}
        UNION ALL
        {_INSTEAD};
    -- What of a part's tokens counts in sums: the rest is counted with another part of its request. NULL: all.
    ALTER TABLE usage ADD COLUMN counted_input INTEGER;
    ALTER TABLE usage ADD COLUMN counted_cached INTEGER;
    ALTER TABLE usage ADD COLUMN counted_output INTEGER;
    -- Usage records where they are booked, each token and each request counted once. A roll-up has no users and labels.
    DROP VIEW usage_line;
    CREATE VIEW usage_line AS
        SELECT ended_ns, {_PART} FROM usage WHERE usage_id NOT IN (SELECT usage_id FROM late_usage)
        UNION ALL
        SELECT l.booked_ns, {_PART} FROM late_usage l JOIN usage u ON u.usage_id = l.usage_id
        UNION ALL
        SELECT ended_ns, {_ROLLED} FROM usage_rollup;
"""  # noqa: S608 - constants
