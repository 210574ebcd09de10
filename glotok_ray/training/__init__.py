"""The training loop and its seams: worker, engine, step, trainer, checkpoint.

May import every folder below but no Ray; `deepspeed` in engine.py alone, `torch.distributed` in worker.py alone.
"""
