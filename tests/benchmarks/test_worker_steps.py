from benchmarks.worker_steps import combine_workers, free_addresses, time_rounds


def test_workers_have_addresses_of_their_own() -> None:
    assert len(set(free_addresses(5))) == 5


def test_all_workers_compute_but_the_chief_is_timed() -> None:
    figures = [
        {
            "dtype": "float32",
            "steps": {"4": {"seconds": seconds, "cpu_seconds": 1.0}},
            "all_reduce": {"seconds": seconds, "cpu_seconds": 0.5},
        }
        for seconds in (3.0, 4.0)
    ]
    assert combine_workers(figures) == {
        "dtype": "float32",
        "workers": 2,
        "steps": {"4": {"seconds": 3.0, "cpu_seconds": 2.0}},
        "all_reduce": {"seconds": 3.0, "cpu_seconds": 1.0},
    }


def test_a_single_worker_has_no_all_reduce() -> None:
    figures = {"steps": {"4": {"seconds": 3.0, "cpu_seconds": 1.0}}, "all_reduce": None}
    assert combine_workers([figures]) == {**figures, "workers": 1}


def test_times_are_per_step() -> None:
    calls = []
    timing = time_rounds(lambda: calls.append(sum(range(200_000))), rounds=3, steps=10)
    assert len(calls) == 3
    assert 0 < timing["cpu_seconds"] < 1
    assert timing["seconds"] > 0
