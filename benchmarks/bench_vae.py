"""The cases of `fastvision bench vae` under pytest-benchmark.

pytest benchmarks/bench_vae.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("vae")


@family.each_peer("vae")
def test_vae(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
