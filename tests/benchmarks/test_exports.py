from pathlib import Path

from benchmarks.exports import MARKS, replace_tables, table_of

FIGURES = {"latency_ms": 12.34, "clips_per_second": 81.0, "size": 2_500_000}


def test_tables_of_a_page_are_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    exports = [
        {"format": name, "runtime": f"{name} 1.0", "original": FIGURES, **FIGURES}
        for name in ("onnx", "openvino")
    ]
    report = {"machine": {"cores": 2, "devices": ["/device:CPU:0 (A CPU)"]}, "load_before": 0.5}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for _ in range(2):  # the marks stay
        replace_tables(page, report, [table_of("Alone", exports)])
    text = page.read_text()
    assert text.startswith(f"before\n{MARKS[0]}\n")
    assert text.endswith(f"{MARKS[1]}\nafter\n")
    assert "old" not in text
    assert "2 cores of A CPU" in text
    assert text.count("| onnx (onnx 1.0) | 12.3 | 81 | 2.50 |") == 1
    assert text.count("| openvino ") == 1
