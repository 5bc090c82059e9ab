import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.http import form_of
from tests.waiting import wait_until
from violence_detection.settings.constants import CLASS_NAMES


def metrics_of(client: httpx.Client) -> dict[str, float]:
    """Return a server's metrics by name and labels."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_metrics_count_requests_clips_and_passes(client: httpx.Client, clip: bytes) -> None:
    before = metrics_of(client)
    client.post("/predict", **form_of(clip))
    client.post("/predict?token=secret", **form_of(b"hello"))
    client.get("/a/b/c")
    unknown = "violence_requests_total elsewhere 404"
    wait_until(lambda: metrics_of(client).get(unknown, 0) > before.get(unknown, 0))
    after = metrics_of(client)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["violence_requests_total /predict 200"] == 1
    assert grown["violence_requests_total /predict 415"] == 1
    assert grown[unknown] == 1
    assert grown["violence_pass_clips_sum"] == 1
    assert sum(grown.get(f"violence_clips_total {name}", 0) for name in CLASS_NAMES) == 1
    assert grown["violence_uploaded_bytes_total"] == len(clip)
    wait_until(lambda: metrics_of(client)["violence_places_taken"] == 0)
    assert after["process_resident_memory_bytes"] > 1e7
    assert "secret" not in client.get("/metrics").text
