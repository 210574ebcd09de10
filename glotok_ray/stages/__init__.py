"""The bodies of the jobs, one file per job: inputs checked, folder begun, work handed to on_ray, results written.

May import everything but jobs, and never Ray itself: what knows Ray is in on_ray.
"""
