"""Select and Gate: which images go on, and which branch."""

import pytest
import torch

from artimuse.artimuse_core.errors import UsageError

from .comfy_run import Run, brightness, brightness_model, grey, nodes

# Select


def select(*percents: float, **inputs: object) -> Run:
    return Run("ArtiMuseSelect", images=grey(*percents), model=brightness_model(), **inputs)


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        ({"rule": "top count", "count": 2}, [3, 1]),
        ({"rule": "top count", "count": 9}, [3, 1, 2, 0]),
        ({"rule": "top percent", "percent": 25.0}, [3]),
        ({"rule": "top percent", "percent": 26.0}, [3, 1]),
        ({"rule": "top percent", "percent": 1.0}, [3]),
        ({"rule": "threshold", "threshold": 40.0}, [3, 1]),
        ({"rule": "top count", "count": 2, "order": "as they came"}, [1, 3]),
    ],
)
def test_select_keeps_what_the_rule_says(comfy, inputs, kept) -> None:
    run = select(10, 60, 30, 90, **inputs)
    assert run["indices"] == kept
    assert run["pick_list"] == ",".join(map(str, kept))
    assert brightness(run["chosen_images"]) == [[10, 60, 30, 90][index] for index in kept]
    assert run["chosen_scores"] == pytest.approx(
        [[10, 60, 30, 90][index] for index in kept], abs=0.5
    )
    if len(kept) < 4:
        rest = [p for index, p in enumerate([10, 60, 30, 90]) if index not in kept]
        assert brightness(run["rejected"]) == rest


def test_top_percent_counts_as_people_do(comfy) -> None:
    from artimuse.comfy_nodes import rules

    def kept(total: int, percent: float) -> int:
        scores = list(range(total))
        return len(rules.choose("top percent", scores, count=1, percent=percent, threshold=0))

    assert (kept(100, 7.0), kept(100, 10.0), kept(30, 10.0), kept(3, 0.1)) == (7, 10, 3, 1)


def test_a_lower_bound_takes_the_spread_off(comfy) -> None:
    scores, spreads = [60.0, 55.0, 70.0], [20.0, 1.0, 20.0]
    run = select(1, 2, 3, rule="lower bound", threshold=50.0, scores=scores, spreads=spreads)
    assert run["indices"] == [2, 1]


def test_a_lower_bound_without_spreads_says_what_to_wire(comfy) -> None:
    with pytest.raises(UsageError, match="wire those of ArtiMuse Score"):
        select(1, 2, rule="lower bound", scores=[1.0, 2.0])


def test_diverse_leaves_out_lookalikes(comfy) -> None:
    run = select(90, 89, 50, 88, rule="diverse", count=3, min_difference=5.0)
    assert run["indices"] == [0, 2]


def test_what_belongs_to_an_image_stays_with_it(comfy) -> None:
    latents = {"samples": torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 4, 2, 2)}
    run = select(
        10, 60, 30, 90,
        count=2,
        latents=latents,
        masks=torch.arange(4.0).reshape(4, 1, 1).expand(4, 8, 8),
        prompts=["a", "b", "c", "d"],
        seeds=[7, 8, 9, 10],
    )  # fmt: skip
    assert [float(latent["samples"].mean()) for latent in run["chosen_latents"]] == [3, 1]
    assert [latent["batch_index"] for latent in run["chosen_latents"]] == [[3], [1]]
    assert [float(mask.mean()) for mask in run["chosen_masks"]] == [3, 1]
    assert run["chosen_prompts"] == ["d", "b"]
    assert run["chosen_seeds"] == [10, 8]


def test_one_prompt_seed_and_mask_may_stand_for_all(comfy) -> None:
    run = select(10, 60, count=1, prompts=["a cat"], seeds=5, masks=torch.ones(8, 8))
    assert (run["chosen_prompts"], run["chosen_seeds"]) == (["a cat"], [5])
    assert run["chosen_masks"][0].shape == (1, 8, 8)


@pytest.mark.parametrize(
    "extra",
    [
        {"latents": {"samples": torch.zeros(3, 4, 2, 2)}},
        {"latents": {"samples": torch.zeros(1, 4, 2, 2)}},
        {"prompts": ["a", "b", "c"]},
        {"scores": [1.0]},
    ],
)
def test_a_wrong_number_is_refused_before_anything_is_scored(comfy, extra) -> None:
    (name,) = extra
    with pytest.raises(UsageError, match=rf"{name}: expected (1 or )?2, as many as images"):
        select(10, 60, **extra)
    assert not comfy.progress


def test_nan_scores_are_refused(comfy) -> None:
    with pytest.raises(UsageError, match="got nan for image 1"):
        select(10, 60, scores=[1.0, float("nan")])


def test_a_noise_mask_goes_with_its_latent(comfy) -> None:
    latents = {
        "samples": torch.zeros(2, 4, 2, 2),
        "noise_mask": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8),
        "batch_index": [5, 6],
    }
    run = select(10, 60, count=1, latents=latents)
    (latent,) = run["chosen_latents"]
    assert latent["batch_index"] == [6]
    assert latent["noise_mask"].shape == (1, 1, 8, 8)
    assert float(latent["noise_mask"].mean()) == 1


def test_an_empty_choice_blocks_all_but_the_rejected(comfy) -> None:
    run = select(10, 60, rule="threshold", threshold=99.0)
    assert brightness(run["rejected"]) == [10, 60]
    for name in run.values:
        assert run.blocks(name) == (name != "rejected")
        if run.blocks(name):
            assert run[name].message is None
    assert run.ui["text"] == ["0 of 2 kept"]


def test_outputs_without_an_input_say_what_to_wire(comfy) -> None:
    run = select(10, 60)
    for name in ("latents", "masks", "prompts", "seeds"):
        assert f"wire its input '{name}'" in run[f"chosen_{name}"].message
    assert run["rejected"].message is None  # nothing was rejected


def test_wired_scores_are_taken_as_they_are(comfy) -> None:
    assert select(90, 10, count=1, scores=[1.0, 2.0])["indices"] == [1]
    assert not comfy.progress


# Gate


def lazy(score, threshold=50.0, judge_by="best", **branches):
    return nodes()["ArtiMuseGate"].check_lazy_status(
        score=score, threshold=[threshold], judge_by=[judge_by], **branches
    )


def test_the_gate_asks_for_the_taken_branch_only(comfy) -> None:
    unknown = {"passed": (None,), "failed": (None,)}
    assert lazy([50.0], **unknown) == ["passed"]
    assert lazy([49.9], **unknown) == ["failed"]
    assert lazy([49.9], passed=(None,)) == []
    assert lazy([50.0], passed=[grey(1)], failed=(None,)) == []


@pytest.mark.parametrize(("judge_by", "cleared"), [("best", 1), ("mean", 0), ("worst", 0)])
def test_several_scores_are_judged_together(comfy, judge_by: str, cleared: int) -> None:
    run = Run("ArtiMuseGate", score=[10.0, 80.0], judge_by=judge_by, passed=["p"], failed=["f"])
    assert run["cleared"] == bool(cleared)
    assert run["output"] == (["p"] if cleared else ["f"])


def test_a_failed_gate_without_a_branch_stops_what_is_behind(comfy) -> None:
    run = Run("ArtiMuseGate", score=10.0, passed=["p"])
    assert run.blocks("output")
    assert run["cleared"] is False


def test_the_gate_passes_lists_whole(comfy) -> None:
    images = [grey(1), grey(2, size=12)]
    assert Run("ArtiMuseGate", score=60.0, passed=images)["output"] == images
