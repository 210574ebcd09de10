"""One equation of the paper, one function: tensors in, a scalar out; weights appear in objective.py alone.

May import config, storage and devices, and neither models nor the configs of jobs.
Symbols: Z `latent`, Z-hat `code_vectors`, Z_res `residual`, C `codebook`, D `similarities`, B `bins`, P_s / P_t
`student` / `teacher`, alpha `alpha`, beta `commitment_weight`, lambda_x `x_weight`.
Read next: glotok_ray/losses/objective.py
"""
