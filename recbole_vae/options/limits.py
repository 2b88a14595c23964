"""Limits that the command line needs before pydantic, torch and RecBole are imported."""

LARGEST = 1e3
"""Largest strength of a correction of scores: far above what is useful, and all scores stay finite in float32."""
