"""`python -m lib.cli`."""

from lib.cli import app

app()
