"""All that knows Ray: clusters, data streams, training groups, actor pools of the batch jobs, sweeps.

May import Ray and every folder below; the bodies of the jobs, in stages, lie above it.
"""
