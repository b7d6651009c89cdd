"""`python -m felid` is the same as the `felid` command."""

from felid.cli import main

main()
