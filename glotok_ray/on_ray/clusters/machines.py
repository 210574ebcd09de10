"""Machine types and places of three clouds, as far as this project's clusters need them.

Written from the vendors' pages and checked against no cloud: a type or place that is missing here can be added.
Read next: glotok_ray/on_ray/clusters/nodes.py
"""

import difflib
from typing import NamedTuple


class Machine(NamedTuple):
    """What a machine type has."""

    cpus: int
    memory_gib: int
    gpus: int = 0
    gpu: str = ""
    efa_cards: int = 0
    """Network cards that take an Elastic Fabric Adapter."""


_AWS = {
    "m7i.2xlarge": Machine(8, 32),
    "m7i.4xlarge": Machine(16, 64),
    "m7i.8xlarge": Machine(32, 128),
    "m7i.16xlarge": Machine(64, 256),
    "m7i.24xlarge": Machine(96, 384),
    "m7i.48xlarge": Machine(192, 768),
    "r7i.2xlarge": Machine(8, 64),
    "r7i.4xlarge": Machine(16, 128),
    "r7i.8xlarge": Machine(32, 256),
    "c7i.8xlarge": Machine(32, 64),
    "c7i.16xlarge": Machine(64, 128),
    "c7i.24xlarge": Machine(96, 192),
    "g5.12xlarge": Machine(48, 192, 4, "A10G", 1),
    "g5.48xlarge": Machine(192, 768, 8, "A10G", 1),
    "g6.12xlarge": Machine(48, 192, 4, "L4", 1),
    "g6.48xlarge": Machine(192, 768, 8, "L4", 1),
    "g6e.12xlarge": Machine(48, 384, 4, "L40S", 1),
    "g6e.48xlarge": Machine(192, 1536, 8, "L40S", 4),
    "p3.16xlarge": Machine(64, 488, 8, "V100"),
    "p4d.24xlarge": Machine(96, 1152, 8, "A100 40GB", 4),
    "p4de.24xlarge": Machine(96, 1152, 8, "A100 80GB", 4),
    "p5.48xlarge": Machine(192, 2048, 8, "H100", 32),
    "p5e.48xlarge": Machine(192, 2048, 8, "H200", 32),
    "p5en.48xlarge": Machine(192, 2048, 8, "H200", 16),
    "p6-b200.48xlarge": Machine(192, 2048, 8, "B200", 8),
}
_GCP = {
    "n2-standard-8": Machine(8, 32),
    "n2-standard-16": Machine(16, 64),
    "n2-standard-32": Machine(32, 128),
    "n2-standard-64": Machine(64, 256),
    "n2-highmem-8": Machine(8, 64),
    "n2-highmem-16": Machine(16, 128),
    "c3-standard-44": Machine(44, 176),
    "c3-standard-88": Machine(88, 352),
    "e2-standard-8": Machine(8, 32),
    "e2-standard-16": Machine(16, 64),
    "g2-standard-48": Machine(48, 192, 4, "L4"),
    "g2-standard-96": Machine(96, 384, 8, "L4"),
    "a2-highgpu-8g": Machine(96, 680, 8, "A100 40GB"),
    "a2-ultragpu-1g": Machine(12, 170, 1, "A100 80GB"),
    "a2-ultragpu-8g": Machine(96, 1360, 8, "A100 80GB"),
    "a3-highgpu-8g": Machine(208, 1872, 8, "H100"),
    "a3-megagpu-8g": Machine(208, 1872, 8, "H100"),
    "a3-ultragpu-8g": Machine(224, 2952, 8, "H200"),
}
_AZURE = {
    "Standard_D8s_v5": Machine(8, 32),
    "Standard_D16s_v5": Machine(16, 64),
    "Standard_D32s_v5": Machine(32, 128),
    "Standard_D64s_v5": Machine(64, 256),
    "Standard_E8s_v5": Machine(8, 64),
    "Standard_E16s_v5": Machine(16, 128),
    "Standard_F32s_v2": Machine(32, 64),
    "Standard_F64s_v2": Machine(64, 128),
    "Standard_NC24ads_A100_v4": Machine(24, 220, 1, "A100 80GB"),
    "Standard_NC96ads_A100_v4": Machine(96, 880, 4, "A100 80GB"),
    "Standard_NC40ads_H100_v5": Machine(40, 320, 1, "H100"),
    "Standard_ND96asr_v4": Machine(96, 900, 8, "A100 40GB"),
    "Standard_ND96amsr_A100_v4": Machine(96, 1900, 8, "A100 80GB"),
    "Standard_ND96isr_H100_v5": Machine(96, 1900, 8, "H100"),
    "Standard_ND96isr_H200_v5": Machine(96, 1850, 8, "H200"),
}
MACHINES = {"aws": _AWS, "gcp": _GCP, "azure": _AZURE}
"""By the provider's type and the machine's name."""

_AWS_ZONES = {
    "us-east-1": "abcdef",
    "us-east-2": "abc",
    "us-west-1": "abc",
    "us-west-2": "abcd",
    "ca-central-1": "abd",
    "sa-east-1": "abc",
    "eu-west-1": "abc",
    "eu-west-2": "abc",
    "eu-west-3": "abc",
    "eu-central-1": "abc",
    "eu-north-1": "abc",
    "ap-south-1": "abc",
    "ap-northeast-1": "acd",
    "ap-northeast-2": "abcd",
    "ap-southeast-1": "abc",
    "ap-southeast-2": "abc",
}
_GCP_ZONES = {
    "us-central1": "abcf",
    "us-east1": "bcd",
    "us-east4": "abc",
    "us-east5": "abc",
    "us-west1": "abc",
    "us-west4": "abc",
    "europe-west1": "bcd",
    "europe-west3": "abc",
    "europe-west4": "abc",
    "asia-east1": "abc",
    "asia-northeast1": "abc",
    "asia-southeast1": "abc",
}
_AZURE_REGIONS = (
    "australiaeast",
    "canadacentral",
    "eastus",
    "eastus2",
    "francecentral",
    "germanywestcentral",
    "italynorth",
    "japaneast",
    "koreacentral",
    "northeurope",
    "southcentralus",
    "southeastasia",
    "swedencentral",
    "switzerlandnorth",
    "uksouth",
    "westeurope",
    "westus2",
    "westus3",
)
ZONES = {
    "aws": {region: [region + zone for zone in zones] for region, zones in _AWS_ZONES.items()},
    "gcp": {region: [f"{region}-{zone}" for zone in zones] for region, zones in _GCP_ZONES.items()},
    "azure": {region: ["1", "2", "3"] for region in _AZURE_REGIONS},
}
"""By the provider's type and the region (of Azure: the location)."""


def unknown_machine(kind: str, instance: str) -> str:
    """What is wrong with a machine type of the cloud `kind` that is not in the table, with the nearest that are."""
    near = difflib.get_close_matches(instance, MACHINES[kind], 3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return (
        f"is no machine type that glotok_ray/on_ray/clusters/machines.py knows of {kind}{hint}; correct it, or add it "
        "there"
    )
