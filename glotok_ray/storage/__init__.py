"""All that reads and writes files of ours: manifests, marks of begun folders, weights, patience with storage.

May import config alone.
"""
