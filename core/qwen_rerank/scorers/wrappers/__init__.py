"""The scorers that wrap other scorers."""
