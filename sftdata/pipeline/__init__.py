"""Plan, run units, seal: the one place where the stages meet."""
