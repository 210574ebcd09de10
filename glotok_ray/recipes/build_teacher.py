"""Teachers: clustered features of a frozen network, kept as centroids and a fine cosine histogram
(paper section 3.3).
"""

from glotok_ray.config.jobs import TeacherRun
from glotok_ray.config.overrides import override
from glotok_ray.config.pool import PoolConfig
from glotok_ray.config.teacher import FeatureNetworkConfig, KMeansConfig


def dinov2_4096() -> TeacherRun:
    """4,096 clusters of DINOv2 ViT-B/14 (registers) patch tokens, for glotok_16k: 1,048,576 vectors of
    65,536 images, 3.2 GB of features.
    """
    return TeacherRun(data_path="data/imagenet/train", output_path="runs/teacher_4096")


def dinov2_projected_4096() -> TeacherRun:
    """The same on 8 principal components, the student's width, which makes the target reachable
    (DECISIONS.md, section 3).
    """
    changes = {"output_path": "runs/teacher_projected_4096", "project_width": 8}
    return override(dinov2_4096(), changes)


def dinov2_16384() -> TeacherRun:
    """16,384 clusters of the same features from four times the images: 12.9 GB of features."""
    changes = {
        "output_path": "runs/teacher_16384",
        "kmeans.num_clusters": 16384,
        "max_images": 262144,
    }
    return override(dinov2_4096(), changes)


def clip_per_class() -> TeacherRun:
    """VQGAN-LC's way to 100,000 centroids: projected patch tokens of CLIP ViT-L/14, 16 per image, each
    class clustered by itself into 100.
    """
    changes = {
        "output_path": "runs/teacher_clip",
        "network.name": "clip_vitl14",
        "network.projected": True,
        "max_images": 0,
        "kmeans.clusters_per_class": 100,
        "center": False,
    }
    return override(dinov2_4096(), changes)


def fqgan_codebook() -> TeacherRun:
    """FQGAN's semantic codebook (Table 6): pass its checkpoint with --data-path."""
    return TeacherRun(output_path="runs/teacher_fqgan")


def imagefolder_codebook() -> TeacherRun:
    """ImageFolder's semantic codebook (Table 6): pass its checkpoint with --data-path."""
    return TeacherRun(output_path="runs/teacher_imagefolder")


def embedded_1024() -> TeacherRun:
    """1,024 clusters of EfficientNet-Lite0 features: 205,800 vectors, all 49 positions of 4,200 crops of
    the embedded photographs at 224 pixels (`jobs.shard_images photographs_160`). Minutes on 2 cores.
    """
    changes = {
        "data_path": "data/photographs/train",
        "output_path": "runs/teacher_1024",
        "network.input_size": 224,
        "vectors_per_image": 49,
        "max_images": 4200,
        "kmeans.num_clusters": 1024,
        "project_width": 0,
    }
    return override(quickstart(), changes)


def quickstart() -> TeacherRun:
    """256 clusters of EfficientNet-Lite0 spatial features of the quickstart's crops."""
    return TeacherRun(
        data_path="runs/quickstart/data/train",
        output_path="runs/quickstart/teacher",
        network=FeatureNetworkConfig(name="efficientnet_lite0", input_size=128),
        vectors_per_image=8,
        max_images=2000,
        kmeans=KMeansConfig(num_clusters=256),
        project_width=8,
        pool=PoolConfig(
            num_actors=2, use_gpu=False, cpus_per_actor=1, threads_per_actor=1, batch_size=32
        ),
    )


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        dinov2_4096,
        dinov2_projected_4096,
        dinov2_16384,
        clip_per_class,
        fqgan_codebook,
        imagefolder_codebook,
        embedded_1024,
        quickstart,
    )
}
