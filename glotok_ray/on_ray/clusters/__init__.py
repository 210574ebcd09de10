"""Files that describe clusters: how they are written from one description, and the rules that they are checked by.

May import the standard library, yaml, jsonschema, config and the list of watched metrics; Ray itself is asked in
`on_ray/preflight.py` alone.
"""
