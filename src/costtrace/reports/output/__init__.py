"""Writing what reports made: files with safe names, PDF, Parquet. The libraries are the extra `reports`."""
