"""The training loop and what it stands on: plan, worker, engines, steps, states, validation, log, checkpoints.

It may import every floor up to teacher, sampling, interop and evaluation. No Ray in here; `deepspeed` in engine.py
alone, `torch.distributed` in worker.py alone.
"""
