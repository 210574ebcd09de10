"""The two passes over all pairs of unit vectors behind the relation loss: one dispatch above three implementations.

May import torch and devices, and numba or triton where an implementation needs it; nothing else of this package.
"""
