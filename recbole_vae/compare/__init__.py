"""Comparison tables: many models on the same split, each run in a process of its own, with statistics over users."""

FIRST_SEED = 2020
"""The first seed of a comparison: RecBole's own."""
