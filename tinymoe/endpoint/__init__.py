"""Checking an engine that is running, over its OpenAI-compatible API."""
