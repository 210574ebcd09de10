"""Files that an evaluation leaves beside metrics.json, and the baselines that stand beside its samples."""

RECONSTRUCTIONS_FILE = "reconstructions.npz"
CODE_COUNTS_FILE = "code_counts.npz"
BASELINES = {
    "baseline_uniform": "codes drawn uniformly",
    "baseline_marginal": "codes drawn from each position's training marginal",
}
