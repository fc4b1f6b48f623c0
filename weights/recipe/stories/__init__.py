"""Simulated short stories: a small world model told with many paraphrases."""

from .tell import document, documents

__all__ = ["document", "documents"]
