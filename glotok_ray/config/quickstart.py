"""All of `jobs.quickstart`: the settings of its stages, chained."""

import dataclasses
from dataclasses import dataclass, field

from glotok_ray.config.evaluation import EvaluateRun
from glotok_ray.config.jobs import EncodeRun, FARSampleRun, ShardRun, TeacherRun, XARSampleRun
from glotok_ray.config.rules import require
from glotok_ray.config.runs import FARRun, TokenizerRun, XARRun


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartRun:
    """All of `jobs.quickstart`: its stages, their folders chained under output_path. Two stages have no settings of
    their own: `twin` and `twin_evaluation` follow from those of the tokenizer and of its evaluation.
    """

    output_path: str = "runs/quickstart"
    """Folder of everything that the pipeline writes."""
    data: ShardRun = field(default_factory=ShardRun)
    teacher: TeacherRun = field(default_factory=TeacherRun)
    tokenizer: TokenizerRun = field(default_factory=TokenizerRun)
    codes: EncodeRun = field(default_factory=EncodeRun)
    generator: XARRun = field(default_factory=XARRun)
    samples: XARSampleRun = field(default_factory=XARSampleRun)
    far: FARRun = field(default_factory=FARRun)
    far_samples: FARSampleRun = field(default_factory=FARSampleRun)
    evaluation: EvaluateRun = field(default_factory=EvaluateRun)
    far_evaluation: EvaluateRun = field(default_factory=EvaluateRun)

    def __post_init__(self) -> None:
        form = self.data.output_form
        require(
            form == "parquet",
            "data.output_form",
            form,
            "must be 'parquet', which the later stages read; tars are made by jobs.shard_images",
        )
        for name in ("evaluation", "far_evaluation"):
            several = getattr(self, name).samples_paths
            require(
                not several,
                f"{name}.samples_paths",
                several,
                "must be empty: the samples of this run are measured; several are by jobs.evaluate_images",
            )

    @property
    def twin(self) -> TokenizerRun:
        """The tokenizer's run once more without the relation loss, all else equal, so that what it does can be seen."""
        loss = dataclasses.replace(self.tokenizer.loss, relation_weight=0.0)
        return dataclasses.replace(self.tokenizer, name="twin", loss=loss)

    @property
    def twin_evaluation(self) -> EvaluateRun:
        """The evaluation of the twin, of its reconstructions and codebooks alone."""
        root = self.output_path.rstrip("/")  # as text: it may be an address of an object store
        return dataclasses.replace(
            self.evaluation,
            tokenizer_path=f"{root}/twin",
            samples_path="",
            codes_path="",
            training_path="",
            generator_path="",
            reference_path="",
            output_path=f"{root}/twin_evaluation",
        )
