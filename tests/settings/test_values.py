import pytest

from violence_detection.settings.parser import parse_settings


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://KEY:SECRET@bucket/clips", "is refused"),
        ("s3://KEY:SEC/RET@bucket/clips", "is refused"),
        ("gs://SECRET@bucket/clips", "is refused"),
        ("hdfs://me:SECRET@host/clips", "is refused"),
        ("s3://bucket/clips?X-Amz-Signature=SECRET", "is refused"),
        ("ftp://host/clips", "ftp:// is none of s3://, gs://, hdfs://"),
        ("s3:///clips", "names no bucket"),
    ],
)
def test_refused_urls_are_not_printed_with_their_secrets(
    url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--dataset-path", "--cache-dir"):
        with pytest.raises(SystemExit) as ended:
            parse_settings(["--dataset-path", "clips", flag, url])
        printed = capsys.readouterr().err
        assert ended.value.code == 2
        assert reason in printed
        assert "SEC" not in printed


def test_urls_are_kept_without_a_trailing_slash() -> None:
    data = parse_settings(["--dataset-path", "s3://b/c/", "--cache-dir", "hdfs://me@host:9/c"]).data
    assert (data.dataset_path, data.cache_dir) == ("s3://b/c", "hdfs://me@host:9/c")


def test_run_directory_must_be_local() -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--dataset-path", "clips", "--checkpoint-dir", "s3://b/c"])
