"""Histories of users, and how they reach the models."""
