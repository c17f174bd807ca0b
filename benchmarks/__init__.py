"""Measurements against straightforward implementations of the same; not part of the package."""
