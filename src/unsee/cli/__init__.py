"""The command line."""

from unsee.cli.app import main

__all__ = ["main"]
