"""The cases of `fastvision bench pool` under pytest-benchmark.

pytest benchmarks/bench_pool.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("pool")


@family.each_peer("pool")
def test_pool(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
