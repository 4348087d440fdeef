"""The cases of `fastvision bench conv` under pytest-benchmark.

pytest benchmarks/bench_conv.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("conv")


@family.each_peer("conv")
def test_conv(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
