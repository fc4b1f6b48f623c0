"""Requests to batches to tokens: a scheduler that picks, and an engine whose step fits a screen."""

from tinymoe.engine.engine import Engine
from tinymoe.engine.scheduler import Scheduler

__all__ = ["Engine", "Scheduler"]
