"""The cases of `fastvision bench augment` under pytest-benchmark.

pytest benchmarks/bench_augment.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("augment")


@family.each_peer("augment")
def test_augment(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
