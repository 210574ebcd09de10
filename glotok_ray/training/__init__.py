"""The training loop and its seams: worker, engine, step, trainer, checkpoint. No Ray in here."""
