"""What a model of a shape and a sharing stores, computes, caches and fills: arithmetic on plain numbers.

Tests hold every form against the model that was built. Nothing here imports a framework or knows a study.
"""
