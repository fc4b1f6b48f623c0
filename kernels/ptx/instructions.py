"""Imports every module that adds instructions to the table of `dispatch.py`."""

from __future__ import annotations
