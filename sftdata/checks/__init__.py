"""Rules by family: pure functions from the value of a stage to findings."""
