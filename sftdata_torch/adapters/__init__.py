"""One module a trainer; each imports its trainer and is imported by no other module."""
