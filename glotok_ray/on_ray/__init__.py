"""All that knows Ray: clusters, data streams, training groups, actor pools of the batch jobs, sweeps."""
