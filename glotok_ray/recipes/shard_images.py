"""Image shards: ImageNet from a class-folder tree, and the embedded photographs of the quickstart."""

from glotok_ray.config.jobs import ShardRun


def imagenet_256() -> ShardRun:
    """ImageNet-1k as class folders under data/imagenet_folders/train (1,281,167 images) and /val (50,000): the
    original files, 138 GB and 6.3 GB, with pixels as they lie, for training and evaluation at 256 pixels (or any side).
    """
    return ShardRun(
        source="data/imagenet_folders/train",
        validation_source="data/imagenet_folders/val",
        output_path="data/imagenet",
        image_size=0,
        upright=False,
    )


def quickstart() -> ShardRun:
    """4,100 training and 600 validation crops of 48 pixels from ten photographs that ship with
    scikit-image and scikit-learn.
    """
    return ShardRun(
        output_path="runs/quickstart/data",
        image_size=48,
        crops_per_class=410,
        validation_crops_per_class=60,
        class_folders="as_found",
        rows_per_shard=410,
    )


def photographs_160() -> ShardRun:
    """4,200 crops of 160 pixels from the same photographs, 0.3 GB, for the teacher `embedded_1024`."""
    return ShardRun(
        output_path="data/photographs",
        image_size=160,
        crops_per_class=420,
        validation_crops_per_class=20,
        rows_per_shard=210,
    )


RECIPES = {
    "imagenet_256": imagenet_256,
    "photographs_160": photographs_160,
    "quickstart": quickstart,
}
