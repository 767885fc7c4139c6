"""`python -m detrigger` is `detrigger`."""

from detrigger.cli import main

main()
