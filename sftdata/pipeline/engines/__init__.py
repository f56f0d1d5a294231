"""Engines schedule units and know nothing of what a unit does."""
