"""What is sent to a tenant or to finance: statements, settlements of idle time, FOCUS, provider bills."""
