"""From a generator and class labels to latents: flow integrates cells, latents measures scale."""
