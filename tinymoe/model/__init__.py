"""The definition: a Mixture-of-Experts transformer as pure functions on arrays.

Read top-down, as data flows: transformer, norm, attention (rope), router, experts.
"""
