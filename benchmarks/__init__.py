"""Measurements beside straightforward ways of doing the same; no part of the package."""
