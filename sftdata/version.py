"""The version of the package, for code that may not import the package's front."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
