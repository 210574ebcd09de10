"""The short table: values of both generators, and what they are to be compared with."""

from typing import Any

from glotok_ray.report.headlines import Headline, Source, headlines, own_class, percent
from glotok_ray.report.inputs import ReportInputs


def entry(value: float | None, chance: float | None = None, **facts: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"label": "l", "value": value, "protocol": "p"}
    found |= {"facts": facts} if facts else {}
    return found if chance is None else {**found, "chance": chance}


def test_every_line_has_its_values_and_what_stands_beside() -> None:
    metrics = {
        "reconstruction_psnr": entry(23.14),
        "retention_visual_psnr": entry(18.0),
        "samples_own_class": entry(0.684, 0.1),
        "far_samples_own_class": entry(0.6, 0.1),
        "validation_own_class": entry(0.93),
        "samples_fd_effnet": entry(70.0),
        "baseline_marginal_fd_effnet": entry(170.0),
        "generator_loss": entry(1.0, 2.0),
        "far_generator_loss": entry(4.0, 6.0),
        "generator_loss_shuffled_labels": entry(1.25),
        "far_generator_loss_shuffled_labels": entry(4.5),
        "samples_nearest_training": entry(6.5),
        "validation_nearest_training": entry(5.5),
        "probe_semantic": entry(0.31, 0.1),
        "probe_semantic_histogram": entry(0.42, 0.1),
        "probe_visual": entry(0.5, 0.1),
        "probe_visual_histogram": entry(0.2, 0.1),
    }
    relation, twin = {"kl_initial": 0.5, "kl_final": 0.01}, {"kl_initial": 0.5, "kl_final": 0.4}
    found = {line.what.split(" (")[0]: line for line in headlines(Source(metrics, relation, twin))}
    assert found["Reconstruction of crops never trained on"].values == {"": "23.1 dB"}
    assert "visual codes alone 18.0 dB" in found["Reconstruction of crops never trained on"].beside
    assert found["Samples that look most like their own class"] == Headline(
        "Samples that look most like their own class",
        {"xAR": "68 %", "FAR": "60 %"},
        "Chance 10 %; real crops 93 %.",
    )
    assert found["Class told from one codebook's histogram of codes"] == Headline(
        "Class told from one codebook's histogram of codes (linear)",
        {"": "semantic 42 %, visual 20 %"},
        "Chance 10 %.",
    )
    distance = found["Distance of samples from real crops"]
    assert distance.values == {"xAR": "70"}
    assert "170" in distance.beside
    loss = found["Loss on crops never trained on, with their label"]
    assert loss.values == {"xAR": "1.000", "FAR": "4.000"}
    assert "another class 1.250 and 4.500; a velocity of zero 2.000; codes that are" in loss.beside
    assert "equally likely 6.000" in loss.beside
    memory = found["Distance of a sample to its nearest training crop"]
    assert memory.values == {"xAR": "6.5"}
    assert memory.beside == "Crops never trained on 5.5."
    distance = found["Distance of the codebook from the teacher's cosines"]
    assert distance.values == {"": "0.01"}
    assert "Without the relation loss 0.4; before training 0.5" in distance.beside


def test_the_distance_to_training_crops_goes_before_that_to_others() -> None:
    metrics = {
        "samples_fd_effnet": entry(70.0),
        "samples_fd_effnet_training": entry(50.0),
        "baseline_marginal_fd_effnet_training": entry(150.0),
        "validation_fd_effnet_training": entry(25.0),
    }
    (line,) = headlines(Source(metrics))
    assert "from training crops" in line.what
    assert line.values == {"xAR": "50"}
    assert "each place 150; real crops never trained on 25;" in line.beside


def test_what_was_not_measured_or_is_undefined_has_no_line() -> None:
    assert headlines(Source({})) == []
    assert headlines(Source({"samples_own_class": entry(None, 0.1)})) == []


def test_a_line_stands_without_what_it_could_be_compared_with() -> None:
    lines = headlines(Source({"far_samples_own_class": entry(0.5)}))
    assert [(line.values, line.beside) for line in lines] == [({"FAR": "50 %"}, "")]


def test_stages_that_run_at_the_same_time_count_once() -> None:
    def stage(seconds: float, began: float | None = None) -> dict[str, Any]:
        return {"seconds": seconds} | ({} if began is None else {"began_unix_s": began})

    def whole(*stages: dict[str, Any]) -> float:
        return ReportInputs(stages=stages).seconds

    assert whole() == 0
    assert whole(stage(10, 100), stage(50, 110), stage(70, 110), stage(5, 180)) == 85
    # A row that goes on after a night, out of order.
    assert whole(stage(30, 9000), stage(20, 100), stage(40, 90)) == 70
    # Of an older run.
    assert whole(stage(10), stage(50), stage(20, 100)) == 80
    # One that was killed, and went on after a night beside another.
    attempts = [stage(10, 100), {"seconds": None, "began_unix_s": 150}, stage(20, 9000)]
    assert whole({**stage(30, 100), "attempts": attempts}, stage(30, 9010)) == 50


def test_small_shares_and_chances_are_no_zeros() -> None:
    shares = (0.0, 1 / 700, 0.0043, 0.05, 0.0994, 0.0996, 0.1, 0.684, 1.0)
    shown = ["0 %", "0.14 %", "0.43 %", "5 %", "9.9 %", "10 %", "10 %", "68 %", "100 %"]
    assert [percent(share) for share in shares] == shown


def test_of_one_class_nothing_is_said_of_the_samples_class() -> None:
    metrics = {"samples_own_class": entry(1.0, 1.0), "far_samples_own_class": entry(1.0, 1.0)}
    assert headlines(Source(metrics)) == []
    assert own_class(Source(metrics)) == ({}, None)


def line_of(metrics: dict[str, Any], words: str) -> Headline:
    (line,) = (line for line in headlines(Source(metrics)) if words in line.what)
    return line


def test_all_codebooks_are_told_by_one_probe_that_no_result_chooses() -> None:
    words = "always naming the most frequent class"
    means = {
        "probe_semantic": entry(0.7, 0.9, chance_is=words),
        "probe_visual": entry(0.2, 0.9, chance_is=words),
    }
    line = line_of(means, "Class told")
    assert "mean code vector" in line.what
    assert line.values == {"": "semantic 70 %, visual 20 %"}
    assert line.beside == "Always naming the most frequent class 90 %."
    # Of too many codes for a histogram of one of them.
    some = {"probe_semantic_histogram": entry(0.8, 0.9), "probe_visual_histogram": entry(None, 0.9)}
    assert line_of(means | some, "Class told") == line
    both = some | {"probe_visual_histogram": entry(0.1, 0.9)}
    assert line_of(means | both, "Class told").values == {"": "semantic 80 %, visual 10 %"}


def test_classes_that_were_left_out_are_told() -> None:
    of = {"classes": 400, "classes_with_mean": 384}
    line = line_of({"samples_own_class": entry(0.5, 0.003, **of)}, "own class")
    assert line.beside == (
        "Chance 0.3 %; of 384 of 400 classes: the others have too few real crops to tell."
    )


def test_distances_have_their_counts_and_few_real_crops_are_no_comparison() -> None:
    metrics = {
        "samples_fd_effnet_training": entry(50.0, num_images=1600),
        "far_samples_fd_effnet_training": entry(40.0, num_images=1600),
        "baseline_marginal_fd_effnet_training": entry(150.0, num_images=1600),
        "validation_fd_effnet_training": entry(25.0, num_images=400),
    }
    line = line_of(metrics, "Distance of samples")
    assert line.beside == (
        "Of 1,600 samples; codes drawn by how often they occur at each place 150 (1,600 images); real crops never "
        "trained on 25 (400 images); lower is closer, and fewer images lie farther."
    )
    metrics["validation_fd_effnet_training"] = entry(170.0, num_images=399)
    few = line_of(metrics, "Distance of samples").beside
    assert "real crops never trained on are too few to compare with (399 images)" in few
    assert "170" not in few
    metrics["far_samples_fd_effnet_training"] = entry(40.0, num_images=200)
    assert line_of(metrics, "Distance of samples").beside.startswith("Of 1,600 and 200 samples; ")


def test_the_loss_says_what_had_no_training() -> None:
    metrics = {
        "generator_loss": entry(1.0, 1.7, chance_is="the best linear guess"),
        "far_generator_loss": entry(4.0, 6.0, chance_is="codes that are equally likely"),
    }
    assert line_of(metrics, "Loss").beside == (
        "The best linear guess 1.700; codes that are equally likely 6.000; lower is better."
    )


def test_what_a_copy_would_have_is_measured() -> None:
    metrics = {
        "samples_nearest_training": entry(57.3, reference="training crops", reference_images=4100),
        "validation_nearest_training": entry(51.7),
        "decoded_nearest_training": entry(40.8),
    }
    line = line_of(metrics, "nearest training crop")
    assert line.beside == (
        "Training crops themselves, encoded and decoded 40.8; crops never trained on 51.7."
    )
    of = {"reference": "training crops drawn by the seed", "reference_images": 5000}
    metrics["samples_nearest_training"] = entry(57.3, **of)
    searched = line_of(metrics, "nearest training crop").beside
    assert searched.endswith("51.7; only 5,000 training crops were searched.")
