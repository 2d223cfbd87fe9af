"""Device names as NVML and ROCm say them, and the figures that go with them."""

import pytest

from costtrace.attribution.steps.cost_model import cover, prior
from costtrace.attribution.steps.device_peaks import GENERIC_CPU, GENERIC_GPU, known_peaks, peak_of
from costtrace.core.events import ModelShape


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB SXM"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 40GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL"),
        ("NVIDIA H200", "NVIDIA H200 SXM"),
        ("NVIDIA B200", "NVIDIA B200"),
        ("NVIDIA GB200", "NVIDIA GB200"),
        ("NVIDIA B300 SXM6 AC", "NVIDIA B300"),
        ("NVIDIA GB300", "NVIDIA GB300"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("AMD Instinct MI300X OAM", "AMD Instinct MI300X"),
    ],
)
def test_devices_are_known_by_the_names_that_drivers_give_them(name, known):
    peak = peak_of(name, "gpu")
    assert (peak.name, peak.generic) == (known, False)


@pytest.mark.parametrize("name", ["", "NVIDIA GeForce RTX 3090", "NVIDIA GH200 480GB", "NVIDIA L40", "Simulated GPU"])
def test_a_device_that_is_not_in_the_table_is_generic_and_says_so(name):
    assert peak_of(name, "gpu") is GENERIC_GPU
    assert peak_of(name, "gpu").generic


def test_a_processor_stands_for_itself():
    assert peak_of("AMD EPYC", "cpu") is GENERIC_CPU


def test_an_instance_of_a_mig_board_has_its_slices_of_it():
    board, instance = peak_of("NVIDIA H100 80GB HBM3", "gpu"), peak_of("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "mig")
    assert instance.flops == pytest.approx(board.flops * 3 / 7)
    assert instance.bytes_per_s == board.bytes_per_s / 2
    assert "3 of 7 slices" in instance.name


def test_every_device_names_its_source_and_has_the_proportions_of_a_gpu():
    for peak in known_peaks():
        assert peak.source
        assert 100 < peak.flops / peak.bytes_per_s < 500, f"{peak.name}: flops per byte"


def test_of_a_mixture_of_experts_a_small_batch_reads_few():
    shape = ModelShape(100 * 10**9, 5 * 10**9, 48, 98_304, 4_096, 32, 128, 128, 8, 90 * 10**9)
    c = prior(shape, "gpu", 1)
    assert cover(c, 1) == pytest.approx(0.1 + 0.9 / 16)
    assert cover(c, 10_000) == pytest.approx(1.0)
    assert cover(prior(ModelShape(16 * 10**9, 8 * 10**9, 32), "gpu", 1), 1) == 1.0
