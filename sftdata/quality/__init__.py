"""What only shows when all records are looked at together: statistics, duplicates, leakage, splits (polars)."""
