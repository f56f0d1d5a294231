"""Every number that the documentation states, from one command: `make bench`."""
