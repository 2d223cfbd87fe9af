"""The tables of how energy was read, and of what waits for it."""

SENSORS = """
    -- How the energy of a device was read in a window of an engine. A window without one has no energy that is known.
    CREATE TABLE window_sensor (
        engine_id TEXT NOT NULL,
        device TEXT NOT NULL,
        window_ns INTEGER NOT NULL,
        source TEXT NOT NULL,              -- nvml_counter, power_integral, rapl
        scope TEXT NOT NULL,               -- gpu, module, board_shared_by_mig, package
        gain TEXT NOT NULL,                -- declared correction that is in the joules
        share TEXT NOT NULL,               -- of a MIG instance, its part of the board by rule: an estimate; or empty
        host TEXT NOT NULL,                -- whose agent read it, where that is another node; or empty
        clock_ns INTEGER NOT NULL,         -- ... and how uncertain the place of its windows is, as declared
        simulated INTEGER NOT NULL,
        PRIMARY KEY (engine_id, device, window_ns)
    ) STRICT, WITHOUT ROWID;

    -- Time of engines that is on no row yet: the energy of a device on another node is waited for. Replaced each time.
    CREATE TABLE pending (
        window_ns INTEGER NOT NULL,
        engine_id TEXT NOT NULL,
        device TEXT NOT NULL,
        host TEXT NOT NULL,
        device_ns INTEGER NOT NULL,
        PRIMARY KEY (engine_id, device, window_ns)
    ) STRICT, WITHOUT ROWID;
"""
