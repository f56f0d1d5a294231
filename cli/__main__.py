"""`python -m sftdata_cli`: the command without its script."""

from sftdata_cli.main import main

main()
