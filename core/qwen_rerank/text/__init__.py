"""Tokenizing, normalizing, chunking and embedding text."""
