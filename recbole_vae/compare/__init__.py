"""Comparison tables: many models on the same split, each run in a process of its own, with statistics over users."""
