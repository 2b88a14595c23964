"""Typed options: what each may be, and errors that say so."""
