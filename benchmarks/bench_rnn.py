"""The cases of `fastvision bench rnn` under pytest-benchmark.

pytest benchmarks/bench_rnn.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

import family

prepared = family.prepared_tasks("rnn")


@family.each_peer("rnn")
def test_rnn(benchmark, prepared, peer):
    family.run(benchmark, prepared, peer)
