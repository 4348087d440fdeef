"""The CUDA side without a GPU: the emulator that runs kernels on the CPU, and the kernels on it."""

import cuda_budget
import cuda_programs
import pytest
from cuda_budget import ARCHITECTURES, ROOT, Kernel
from cuda_programs import AUGMENT_DRIVER, CONV_DRIVER, RNN_DRIVER, SANITIZERS, SCHEDULES, SEEDED_BUGS, VAE_DRIVER

pytestmark = pytest.mark.skipif(bool(cuda_programs.compiler_missing()), reason=str(cuda_programs.compiler_missing()))

# What is said about each bug, and the build that says it. The plain build catches what the emulator
# itself watches or what changes the result; memory errors and races take a sanitizer.
SEEDED = {
    "barrier_missing_before_read": ("plain", "wrong result"),
    "barrier_missing_after_read": ("plain", "wrong result"),
    "shared_out_of_bounds": ("address", "index 64 out of bounds"),
    "global_out_of_bounds": ("address", "heap-buffer-overflow"),
    "barrier_skipped": ("plain", "a thread exits while others of its block wait at __syncthreads"),
    "barrier_divergent": ("plain", "divergent barrier"),
    "barrier_after_exit": ("plain", "a thread exits while others of its block wait at __syncthreads"),
    "barrier_in_two_places": ("plain", "meet at different __syncthreads"),
    "mask_without_caller": ("plain", "lane 16 calls a warp operation with mask 0x0000ffff, which does not name it"),
    "mask_without_source": ("plain", "lane 0 reads by shuffle from lane 16, which mask 0x0000ffff does not name"),
    "mask_unequal": ("plain", "name different masks"),
    "mask_names_absent_lane": ("plain", "waits for lanes in its mask that never arrive"),
    "shared_update_not_atomic": ("thread", "data race"),
    "global_update_not_atomic": ("thread", "data race"),
    "syncwarp_missing": ("thread", "data race"),
    "shared_uninitialised": ("plain", "wrong result"),
    "wmma_unaligned": ("plain", "not 32-byte aligned"),
    "wmma_odd_stride": ("plain", "leading dimension of 15 elements"),
    "wmma_unequal_addresses": ("plain", "different addresses"),
    "wmma_diverged": ("plain", "waits for lanes in its mask that never arrive"),
    "wmma_unfilled": ("plain", "wrong result"),
    "wmma_unrounded_tf32": ("plain", "did not go through wmma::__float_to_tf32"),
    "grid_barrier_missing": ("plain", "wrong result"),
    "grid_barrier_left_out_by_block": ("plain", "a thread exits while others of its grid wait"),
    "grid_barrier_of_blocks_apart": ("plain", "launch_together makes them"),
    "grid_too_large_to_wait": ("plain", "(65, 1, 1) blocks that wait for each other; at most 64"),
    "shared_too_large": ("plain", "49156 bytes of shared memory"),
    "block_too_large": ("plain", "a block of (64, 32, 1) threads"),
    "grid_empty": ("plain", "a grid of (0, 1, 1) blocks"),
}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_kernels_without_bugs_pass(sanitizer, schedule):
    result = SEEDED_BUGS.run(sanitizer, schedule, "clean")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("bug", SEEDED)
def test_seeded_bug_is_caught(bug):
    sanitizer, message = SEEDED[bug]
    result = SEEDED_BUGS.run(sanitizer, "forward", bug)
    assert result.returncode != 0
    assert message in result.stdout


@pytest.mark.parametrize("bug", ["barrier_missing_before_read", "barrier_missing_after_read", "grid_barrier_missing"])
def test_race_is_reported_as_such(bug):
    assert "data race" in SEEDED_BUGS.run("thread", "forward", bug).stdout


def test_message_names_kernel_block_and_line():
    output = SEEDED_BUGS.run("plain", "forward", "barrier_divergent").stdout
    assert "meet<" in output
    assert "block (0, 0, 0)" in output
    assert "waits at __syncthreads, last at" in output
    assert "seeded_bugs.cu:" in output


def test_unknown_schedule_is_refused():
    result = SEEDED_BUGS.run("plain", "sideways", "clean")
    assert result.returncode != 0
    assert "must be forward, reverse or random, not 'sideways'" in result.stdout


# The first run of each build compiles all kernels, which takes a while; hence `slow`.


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sanitizer", "cases"), [("plain", 100), ("address", 40), ("thread", 10)])
def test_conv_kernels_equal_plain_loops(sanitizer, cases, schedule):
    seed = SCHEDULES.index(schedule)
    result = CONV_DRIVER.run(sanitizer, schedule, str(cases), str(seed), "1", timeout=300)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sanitizer", "cases"), [("plain", 40), ("address", 12), ("thread", 4)])
def test_rnn_kernels_equal_plain_loops(sanitizer, cases, schedule):
    result = RNN_DRIVER.run(sanitizer, schedule, str(cases), str(SCHEDULES.index(schedule)), timeout=300)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("sanitizer", "cases"), [("plain", 40), ("address", 12), ("thread", 4)])
def test_vae_kernels_equal_plain_loops(sanitizer, cases, schedule):
    result = VAE_DRIVER.run(sanitizer, schedule, str(cases), str(SCHEDULES.index(schedule)), timeout=300)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "cases"), [("plain", 100), ("address", 30)])
def test_augment_kernels_equal_plain_loops(sanitizer, cases):
    result = AUGMENT_DRIVER.run(sanitizer, "forward", str(cases), "1", timeout=300)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_conv_kernels_on_several_threads():
    result = CONV_DRIVER.run("thread", "forward", "3", "100", "4", timeout=300)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_conv_kernels_on_images_more_than_2_to_the_31_elements_apart():
    result = CONV_DRIVER.run("plain", "forward", "60", "200", "1", "far", timeout=300)
    assert result.returncode == 0, result.stdout


def kernel(**differences) -> Kernel:
    fine = {"registers": 100, "shared_bytes": 20_000, "instructions": {"loads_128": 4, "tensor_core_products": 8}}
    return Kernel("a<F16, 64>", 80, **(fine | differences))


LIMITS = {"a<*>": {"registers": 128, "warps": {"default": 16, "75": 8}, "loads_128": 4, "tensor_core_products": 8}}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"spilled_bytes": 8}, "8 bytes of registers spilled"),
        ({"stack_bytes": 16}, "16 bytes of stack"),
        ({"registers": 130}, "130 registers, at most 128"),
        ({"shared_bytes": 45_000}, "12 warps per multiprocessor, at least 16"),
        ({"instructions": {"tensor_core_products": 8}}, "0 loads_128, at least 4"),
        ({"instructions": {"loads_128": 4}}, "0 tensor_core_products, at least 8"),
    ],
)
def test_budget_names_what_is_over(differences, message):
    found = cuda_budget.violations(kernel(**differences), LIMITS)
    assert any(message in text for text in found), found


def test_budget_accepts_and_has_one_entry_per_kernel():
    assert cuda_budget.violations(kernel(), LIMITS) == []
    assert cuda_budget.violations(kernel(), {}) == ["a<F16, 64>: 0 entries in the budget, expected 1"]
    assert cuda_budget.unused([kernel()], LIMITS | {"b<*>": {}}) == ["b<*>"]


def test_occupancy_is_bounded_by_registers_shared_memory_and_warps():
    ampere = ARCHITECTURES[80]
    assert ampere.resident_warps(registers=168, shared_bytes=0, threads=128) == 12
    assert ampere.resident_warps(registers=32, shared_bytes=80 * 1024, threads=128) == 8
    assert ampere.resident_warps(registers=32, shared_bytes=0, threads=256) == 64


@pytest.mark.slow
@pytest.mark.skipif(cuda_budget.find_nvcc() is None, reason="nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)")
@pytest.mark.skipif(
    cuda_budget.find_cuobjdump() is None,
    reason="cuobjdump was not found (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)",
)
@pytest.mark.parametrize(
    "source",
    [
        *(f"conv/cuda/gemm_{name}.cu" for name in ("f32", "tf32", "f16", "bf16")),
        "rnn/cuda/forward.cu",
        "rnn/cuda/sequence_f32.cu",
        "vae/cuda/sample.cu",
        "vae/cuda/elbo.cu",
        "augment/cuda/augment.cu",
    ],
)
def test_kernels_keep_their_budget(source, tmp_path):
    kernels = cuda_budget.inspect(ROOT / "csrc" / source, [80], tmp_path)
    assert kernels
    budget = cuda_budget.read_budget()
    assert [text for k in kernels for text in cuda_budget.violations(k, budget)] == []
