"""scripts/gpu.py without a GPU: the same work on a CPU."""

import sys

import pytest
import torch

import train
from helpers import coco, photo
from scripts import bench, gpu
from scripts.reference import SHAPES


def count_nothing(run, model):
    run(model)
    return {"kernels": 0, "busy, s": 0.0, "attention": {}}


def run_here(file, *arguments):
    """recipe.run in this process, which loads the images, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [file, *map(str, arguments), "--workers", "0"])
        train.main()


@pytest.fixture
def cpu(monkeypatch):
    """A CPU where a GPU is expected; it counts no kernels and no memory."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "describe_machine", lambda: {"name": "a CPU"})
    monkeypatch.setattr(gpu, "count_kernels", count_nothing)
    monkeypatch.setattr(gpu.recipe, "run", run_here)
    monkeypatch.setattr(bench, "SAMPLES", 16)
    for name in ("max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)


@pytest.fixture
def photographs(split):
    folder = split(coco(8))
    (folder / "images/skirt").mkdir(parents=True)
    for i in range(8):
        photo(60, 50).save(folder / f"images/skirt/{i}.jpg")
    return folder


def test_both_sides_answer_and_learn_alike(cpu, photographs, monkeypatch):
    monkeypatch.setattr(gpu, "RUNS", ((2, 4),))
    found = gpu.measure_paper(SHAPES["tiny"], photographs, 1)
    assert found["same answers"] == {"answers": gpu.SINGLE, "same": gpu.SINGLE}
    reference, ours = found["losses"]["reference"], found["losses"]["ours"]
    assert ours == pytest.approx(reference, rel=1e-5)
    both = [row["work"] for row in found["rows"] if "reference, s" in row]
    alone = [row["work"] for row in found["rows"] if "reference, s" not in row]
    assert both == [
        "1 keypoint, single",
        "4 keypoints, cumulative",
        "17 keypoints, single",
        "16 samples",
        "a pair of 4 rounds",
        "an image's 4 pairs of 4 rounds",
    ]
    assert alone == ["17 keypoints, cumulative", "the density"]
    (run,) = found["runs"]
    assert (run["micro-batch"], run["batch"]) == (2, 4)
    assert run["pairs/s"] > 0


def test_kernels_of_attention_are_told_apart():
    named = {
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>": "flash",
        "void pytorch_flash::flash_fwd_splitkv_kernel<...>": "flash",
        "void pytorch_flash::flash_fwd_splitkv_combine_kernel<...>": "",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention...)": "efficient",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma": "cuDNN",
        "void pytorch_flash::flash_bwd_dot_do_o_kernel<...>": "",
        "cudnn_infer_ampere_scudnn_128x64_relu_xregs_large_nn_v1": "",
        "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT": "",
    }
    assert {name: gpu.name_attention(name) for name in named} == named


def test_a_run_that_is_resumed_ends_as_one_that_is_not(cpu, photographs, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "HALF", 1)
    monkeypatch.setattr(gpu, "BATCH", 4)
    found = gpu.measure_repetition(photographs, ["--tune", "lora"])
    assert found == {"again": True, "resumed": True}
