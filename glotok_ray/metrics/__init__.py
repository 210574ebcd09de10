"""What results are measured by: pure functions and mergeable accumulators in numpy float64.

Imports nothing else of this package, no torch and no Ray.
"""
