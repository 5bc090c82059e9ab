import os

from benchmarks.timing import Workload, in_own_process, side_by_side


def test_rates_are_of_all_parts_and_ratios_of_the_same_round() -> None:
    slow = iter([4.0, 4.0, 2.0, 2.0, 8.0, 8.0])
    fast = iter([1.0, 0.5, 4.0])
    workloads = {
        "slow": Workload([lambda: next(slow)] * 2, amount=16),
        "fast": Workload([lambda: next(fast)], amount=4),
    }
    rates = side_by_side(workloads, rounds=3)
    assert rates.per_second == {"slow": [2, 4, 1], "fast": [4, 8, 1]}
    assert rates.median("slow") == 2
    assert rates.ratio("fast", over="slow") == 2


def test_a_function_without_seconds_of_its_own_is_timed() -> None:
    rates = side_by_side({"sum": Workload([lambda: print(end="")])}, rounds=2)
    assert all(rate > 0 for rate in rates.per_second["sum"])


def test_a_function_is_called_in_a_process_of_its_own() -> None:
    assert in_own_process(os.getpid, tensorflow=False) != os.getpid()
