"""Peak rates of GPUs, by the names that torch gives them: what MFU is measured against.

Read next: glotok_ray/training/operations.py
"""

import torch

# Dense bf16 products with fp32 sums, 10^12 operations per second, by the vendors' data sheets (which print the double
# for sparse matrices). The first name that the card's name contains counts.
_DENSE_BF16 = (
    ("B200", 2250.0),
    ("GH200", 989.4),
    ("H200", 989.4),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.4),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("A30", 165.0),
    ("A40", 149.7),
    # It has no bf16; this is its fp16.
    ("V100", 125.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
)


def dense_bf16_rate(card: str) -> float | None:
    """Operations per second of a card by its name, such as "NVIDIA H100 80GB HBM3"; None for an unknown one."""
    for name, rate in _DENSE_BF16:
        if name.lower() in card.lower():
            return rate * 1e12
    return None


def peak_rate(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a device; None for a CPU and for a card that is not in the table."""
    if device.type != "cuda":
        return None
    return dense_bf16_rate(torch.cuda.get_device_name(device))
