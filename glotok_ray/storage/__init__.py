"""All that reads and writes files of ours: manifests, begun marks, digests, weights, patience with storage.

May import faults and progress alone, of this package; what folders mean is known above it.
"""
