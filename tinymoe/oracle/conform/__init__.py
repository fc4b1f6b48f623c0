"""Somebody else's kernel under our tests: `python -m tinymoe conform OP module:function`."""
