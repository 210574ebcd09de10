"""Teachers: clustered features of a frozen network, kept as centroids and a fine cosine histogram
(paper section 3.3).
"""

from glotok_ray.config import PoolConfig, TeacherRun, override


def dinov2_4096() -> TeacherRun:
    """4,096 clusters of DINOv2 ViT-B/14 (registers) patch tokens, for glotok_16k."""
    return TeacherRun(
        data_path="data/imagenet/train",
        output_path="runs/teacher_4096",
        weights_path="weights/dinov2_vitb14_reg.pt2",
    )


def dinov2_16384() -> TeacherRun:
    """16,384 clusters of the same features from four times the images, for glotok_2x."""
    changes = {"output_path": "runs/teacher_16384", "num_clusters": 16384, "max_images": 262144}
    return override(dinov2_4096(), changes)


def quickstart() -> TeacherRun:
    """256 clusters of EfficientNet-Lite0 spatial features of the quickstart's crops."""
    return TeacherRun(
        data_path="runs/quickstart/data/train",
        output_path="runs/quickstart/teacher",
        network="efficientnet_lite0",
        input_size=128,
        vectors_per_image=8,
        max_images=2000,
        num_clusters=256,
        project_width=8,
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=32
        ),
    )


RECIPES = {"dinov2_4096": dinov2_4096, "dinov2_16384": dinov2_16384, "quickstart": quickstart}
