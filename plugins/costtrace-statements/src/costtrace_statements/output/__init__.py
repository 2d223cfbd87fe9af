"""Writing statements: HTML, PDF, Parquet, files named for tenants. The libraries are the extra `reports`."""
