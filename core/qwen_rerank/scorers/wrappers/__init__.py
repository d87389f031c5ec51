"""Scorers that wrap other scorers: cache, cascade, fallback, passages."""
