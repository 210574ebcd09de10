"""Files that an evaluation leaves beside metrics.json, and the baselines that stand beside its samples.

Read next: glotok_ray/evaluation/sample_files.py
"""

RECONSTRUCTIONS_FILE = "reconstructions.npz"
CODE_COUNTS_FILE = "code_counts.npz"
FOREIGN_SAMPLES = "foreign_samples"
"""In the manifest of an evaluation of samples that others drew: what they are."""
RETENTION_FILE = "retention.npz"
"""Kept validation crops as "inputs" and, decoded from all codes and from each codebook's alone, as "both" and under the
codebooks' names.
"""
BASELINES = {
    "baseline_uniform": "codes drawn uniformly",
    "baseline_marginal": "codes drawn from each position's training marginal",
}
