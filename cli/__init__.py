"""The command line: one command a file, the library imported inside the command. Installed as `sftdata_cli`."""
