"""A whole catalogue at once: every poster of a folder, table, archive or bucket into one Parquet file."""
