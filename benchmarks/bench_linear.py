"""The cases of `fastvision bench linear` under pytest-benchmark.

pytest benchmarks/bench_linear.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("linear")


@family.each_peer("linear")
def test_linear(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
