"""The version of the package, for whoever must not import its public functions."""

__version__ = "0.2.0"
