"""scripts/gpu.py without a GPU: the same work on a CPU, and times computed as by growth.py."""

import pytest
import torch

from helpers import coco, photo
from scripts import bench, gpu, growth
from scripts.reference import SHAPES

MACHINE = {"product, TFLOP/s": 100.0, "copy, GB/s": 1000}


def count_nothing(run, model):
    run(model)
    return {"kernels": 0, "busy, s": 0.0, "attention": {}}


@pytest.fixture
def cpu(monkeypatch):
    """A CPU where a GPU is expected; it counts no kernels and no memory."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(gpu, "count_kernels", count_nothing)
    monkeypatch.setattr(bench, "SAMPLES", 16)
    monkeypatch.setattr(gpu, "MICRO_BATCHES", (1, 2))
    for name in ("max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)


def test_both_sides_answer_and_learn_alike(cpu):
    found = gpu.measure_paper(SHAPES["tiny"], 1)
    assert found["same answers"] == {"answers": gpu.SINGLE, "same": gpu.SINGLE}
    reference, ours = found["losses"]["reference"], found["losses"]["ours"]
    assert ours == pytest.approx(reference, rel=1e-5)
    both = [row["work"] for row in found["answers"] if "reference, s" in row]
    ours = [row["work"] for row in found["answers"] if "reference, s" not in row]
    assert both == [
        "1 keypoint, single", "4 keypoints, cumulative", "17 keypoints, single", "16 samples"
    ]
    assert ours == ["17 keypoints, cumulative", "the density"]
    # As many of 60 tokens and an answer as there is room for
    rounds = (2048 - 5) // 74
    passes = [row["work"] for row in found["passes"]]
    assert passes == [
        "1 of 4 rounds",
        "2 of 4 rounds",
        f"1 of {rounds} rounds",
        "1 of 4 rounds, --checkpoint-activations",
        f"1 of {rounds} rounds, --checkpoint-activations",
    ]


def test_the_paper_is_computed_as_by_growth():
    vision, llm = gpu.size_of(gpu.SHAPE)
    assert llm == growth.LLAMA8B
    assert vision._replace(table=growth.LARGE.table) == growth.LARGE


def test_kernels_of_attention_are_told_apart():
    named = {
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>": "flash",
        "void pytorch_flash::flash_fwd_splitkv_kernel<...>": "flash",
        "void pytorch_flash::flash_fwd_splitkv_combine_kernel<...>": "",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention...)": "efficient",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma": "cuDNN",
        "void pytorch_flash::flash_bwd_dot_do_o_kernel<...>": "",
        "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT": "",
    }
    assert {name: gpu.name_attention(name) for name in named} == named


def test_a_run_that_is_resumed_ends_as_one_that_is_not(cpu, split, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "HALF", 1)
    folder = split(coco(8))
    (folder / "images/skirt").mkdir(parents=True)
    for i in range(8):
        photo(60, 50).save(folder / f"images/skirt/{i}.jpg")
    assert gpu.measure_repetition(folder, ["--tune", "lora"]) == {"again": True, "resumed": True}
