"""The ledger's tables. Integers are exact: ns, uJ and nano-units of a currency; times are wall ns since the epoch.

A later version appends to `MIGRATIONS` and never edits what is there: a ledger of any older version is brought up
by applying what it lacks, in one transaction.
"""

from costtrace.ledger.schema.closing import BOOKED, CLOSING, FLEET
from costtrace.ledger.schema.sensors import SENSORS

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE engine (
        engine_id TEXT PRIMARY KEY,
        host TEXT NOT NULL,
        boot_id TEXT NOT NULL,             -- monotonic times are compared within one boot of one host only
        engine TEXT NOT NULL,              -- vllm, tensorrt-llm, dynamo, simulator
        version TEXT NOT NULL,
        model TEXT NOT NULL,
        role TEXT NOT NULL,                -- aggregated, prefill, decode
        dp_rank INTEGER NOT NULL,
        devices TEXT NOT NULL,             -- JSON array of device UUIDs
        device_name TEXT NOT NULL,         -- what the price book matches on
        device_kind TEXT NOT NULL,         -- gpu, mig, cpu (a labelled stand-in)
        settings TEXT NOT NULL,            -- JSON object
        lost_hooks TEXT NOT NULL,          -- JSON array
        simulated INTEGER NOT NULL,
        started_wall_ns INTEGER NOT NULL,
        started_ns INTEGER NOT NULL,       -- monotonic, as are the ends of meter rows
        ended_ns INTEGER NOT NULL,         -- 0 while it runs
        end_reason TEXT NOT NULL
    ) STRICT;

    -- One line of the bill. Never updated, never deleted while its period is open.
    CREATE TABLE posting (
        posting_id INTEGER PRIMARY KEY,
        window_ns INTEGER NOT NULL,
        engine_id TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('request', 'idle', 'overhead', 'unobserved')),
        reason TEXT NOT NULL,
        record_id TEXT NOT NULL,           -- '' unless kind is request
        tenant TEXT NOT NULL,
        model TEXT NOT NULL,
        gpu_ns INTEGER NOT NULL,           -- device-nanoseconds
        prefill_ns INTEGER NOT NULL,
        decode_ns INTEGER NOT NULL,
        wasted_ns INTEGER NOT NULL,        -- over all postings of a record a part of gpu_ns
        energy_uj INTEGER,                 -- NULL: not measured
        prefill_uj INTEGER,
        decode_uj INTEGER,
        wasted_uj INTEGER,
        gap_ns INTEGER NOT NULL,           -- part of gpu_ns whose energy is not known
        method TEXT NOT NULL,              -- how the step was shared
        rate_id TEXT NOT NULL,             -- '' where no price applies: the cost is unknown
        device_nano INTEGER,               -- NULL: unknown
        energy_nano INTEGER,               -- NULL: unknown; 0 where the device's price includes power
        CHECK (kind != 'request' OR gpu_ns = prefill_ns + decode_ns)
    ) STRICT;
    CREATE INDEX posting_by_window ON posting (window_ns);
    CREATE INDEX posting_by_record ON posting (record_id) WHERE record_id != '';

    -- What one device gave one engine in one window: what the postings have to add up to.
    CREATE TABLE meter (
        engine_id TEXT NOT NULL,
        device TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        window_ns INTEGER NOT NULL,
        request_ns INTEGER NOT NULL,
        idle_ns INTEGER NOT NULL,
        overhead_ns INTEGER NOT NULL,
        unobserved_ns INTEGER NOT NULL,
        shared INTEGER NOT NULL,
        energy_uj INTEGER,
        gap_ns INTEGER NOT NULL,
        energy_source TEXT NOT NULL,
        energy_scope TEXT NOT NULL,
        PRIMARY KEY (engine_id, device, start_ns)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX meter_by_window ON meter (window_ns);

    -- One part of a request, once closed.
    CREATE TABLE usage (
        usage_id INTEGER PRIMARY KEY,      -- order of closing: the cursor of emission
        record_id TEXT NOT NULL UNIQUE,
        request_key TEXT NOT NULL,
        request_id TEXT NOT NULL,
        engine_id TEXT NOT NULL,
        part INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        role TEXT NOT NULL,
        tenant TEXT NOT NULL,
        tenant_source TEXT NOT NULL,
        "user" TEXT NOT NULL,
        labels TEXT NOT NULL,              -- JSON object
        model TEXT NOT NULL,
        operation TEXT NOT NULL,
        traceparent TEXT NOT NULL,
        arrived_ns INTEGER NOT NULL,
        scheduled_ns INTEGER NOT NULL,
        decode_ns_at INTEGER NOT NULL,
        ended_ns INTEGER NOT NULL,
        gpu_ns INTEGER NOT NULL,
        prefill_ns INTEGER NOT NULL,
        decode_ns INTEGER NOT NULL,
        wasted_ns INTEGER NOT NULL,
        energy_uj INTEGER,
        prefill_uj INTEGER,
        decode_uj INTEGER,
        gap_ns INTEGER NOT NULL,
        energy_source TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        computed_tokens INTEGER NOT NULL,
        sequences INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        batch_milli INTEGER NOT NULL,
        preemptions INTEGER NOT NULL,
        finish_reasons TEXT NOT NULL,      -- JSON array
        method TEXT NOT NULL,
        finality TEXT NOT NULL,
        simulated INTEGER NOT NULL,
        cost_nano INTEGER,                 -- sum over its postings; NULL where any of them is unknown
        prefill_nano INTEGER,
        decode_nano INTEGER,
        currency TEXT NOT NULL,            -- '' where no price applies
        price_book TEXT NOT NULL
    ) STRICT;
    CREATE INDEX usage_by_end ON usage (ended_ns);
    CREATE INDEX usage_by_request ON usage (request_id);
    CREATE INDEX usage_by_key ON usage (request_key);

    -- Every rate that was ever applied, exact: nano-units = ns * numerator / denominator.
    CREATE TABLE rate (
        rate_id TEXT PRIMARY KEY,
        price_book TEXT NOT NULL,
        currency TEXT NOT NULL,
        device_entry TEXT NOT NULL,
        device_numerator TEXT NOT NULL,
        device_denominator TEXT NOT NULL,
        energy_numerator TEXT NOT NULL,    -- per uJ; '' where the device's price includes power or no tariff applies
        energy_denominator TEXT NOT NULL,
        includes_energy INTEGER NOT NULL
    ) STRICT;

    -- The position of the agent in each journal, in the same transaction as what it made of all before.
    CREATE TABLE position (
        engine_id TEXT PRIMARY KEY,
        segment INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        damaged INTEGER NOT NULL,
        done INTEGER NOT NULL              -- 1: ended and read to its end
    ) STRICT;
    CREATE TABLE state (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT;

    -- How far each consumer of the ledger (spans to an OTLP receiver, ...) has read.
    CREATE TABLE cursor (
        consumer TEXT PRIMARY KEY,
        usage_id INTEGER NOT NULL,
        updated_ns INTEGER NOT NULL
    ) STRICT;

    -- What an operator has to know later: unpriced devices, clock steps, damage, losses.
    CREATE TABLE notice (
        notice_id INTEGER PRIMARY KEY,
        at_ns INTEGER NOT NULL,
        subject TEXT NOT NULL,
        message TEXT NOT NULL
    ) STRICT;
    """,
    """
    -- What each engine's step model has learned: by what proportions its steps are shared.
    CREATE TABLE engine_fit (
        engine_id TEXT PRIMARY KEY,
        method TEXT NOT NULL,              -- of its newest step
        device TEXT NOT NULL,              -- whose published figures made the prior
        device_known INTEGER NOT NULL,     -- 0: they are generic
        shape_known INTEGER NOT NULL,      -- 0: nothing was known of the model's shape
        fitted INTEGER NOT NULL,           -- 0: the coefficients are still the prior's
        knee_tokens INTEGER NOT NULL,
        launch_as INTEGER NOT NULL,        -- attoseconds
        token_as INTEGER NOT NULL,
        weights_as INTEGER NOT NULL,
        context_as INTEGER NOT NULL,
        attention_as INTEGER NOT NULL,
        sequence_as INTEGER NOT NULL,
        encoder_as INTEGER NOT NULL,
        expert_ppm INTEGER NOT NULL,
        roofline_error_ppm INTEGER,        -- NULL: no step has been judged
        affine_error_ppm INTEGER,
        tokens_error_ppm INTEGER,
        equal_error_ppm INTEGER,
        coverage_ppm INTEGER,              -- step time shared by a fitted model
        observations INTEGER NOT NULL,
        outliers INTEGER NOT NULL,
        changes INTEGER NOT NULL,
        moves INTEGER NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE usage ADD COLUMN head_ns INTEGER;  -- of gpu_ns, head fees; NULL: from before it was counted
    """,
    CLOSING,
    "CREATE INDEX seal_by_end ON seal (until_ns);",  # every row that is written asks for the newest
    SENSORS,
    FLEET,
    "-- Users and labels on usage_line: replaced by BOOKED.",
    """
    -- What a step with prompts does once for them, attoseconds; 0: nothing, or from before it was learned.
    ALTER TABLE engine_fit ADD COLUMN prompt_as INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- In gpu_ns, what came (or with a minus, went) by sharing prompts' beginnings; NULL: from before it could.
    ALTER TABLE usage ADD COLUMN prefix_ns INTEGER;
    """,
    """
    -- What a step with decodes does once for them, attoseconds; 0: nothing, or from before it was learned.
    ALTER TABLE engine_fit ADD COLUMN decode_as INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- The last number that a table had when rows were taken out of it: SQLite would give theirs again.
    CREATE TABLE last_number (name TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
    INSERT INTO last_number SELECT 'posting', coalesce(max(last_posting), 0) FROM rollup;
    INSERT INTO last_number SELECT 'usage', (SELECT count(*) FROM usage) + coalesce(sum(parts), 0) FROM usage_rollup;
    """,
    BOOKED,
)

SCHEMA_VERSION = len(MIGRATIONS)
