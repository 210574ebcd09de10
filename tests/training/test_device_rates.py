"""The peak rates that MFU is measured against."""

import pytest
import torch

from glotok_ray.training.device_rates import dense_bf16_rate, peak_rate


@pytest.mark.parametrize(
    ("card", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", None),
    ],
)
def test_the_peak_rate_follows_the_cards_name(card: str, rate: float | None) -> None:
    assert dense_bf16_rate(card) == rate


def test_a_cpu_has_no_rate() -> None:
    assert peak_rate(torch.device("cpu")) is None
