"""`python -m augrec`."""

from augrec.cli import main

main()
