"""Writing what reports made: text, CSV, JSON, files; Parquet, whose library is the extra `reports`."""
