"""Whole-dataset questions: statistics, duplicates, leakage, splits."""
