from datetime import datetime

import pytest

from violence_detection.cameras.alarms import AlarmRule, AlarmState, is_within, parse_hours

NOON = datetime(2026, 11, 30, 12)  # a Monday
THRESHOLD = 0.5


def alarms_of(rule: AlarmRule, probabilities: str, moment: datetime = NOON) -> list[tuple]:
    """Return (start, end, probability) of the alarms of windows of 2 s, each second one.

    Args:
        probabilities: a digit for each window: tenths.
    """
    state, found = AlarmState(rule, THRESHOLD), []
    for number, digit in enumerate(probabilities):
        begun, _ = state.add(number, number + 2, int(digit) / 10, moment)
        if begun is not None:
            found.append(begun)
    state.end()
    return [(alarm.start, alarm.end, alarm.probability) for alarm in found]


@pytest.mark.parametrize(
    ("rule", "probabilities", "expected"),
    [
        (AlarmRule(), "001970000", [(3, 6, 0.9)]),
        (AlarmRule(cool_down=0), "07000800", [(1, 3, 0.7), (5, 7, 0.8)]),
        (AlarmRule(cool_down=30), "07000800", [(1, 3, 0.7)]),
        # What begins in the pause and outlasts it is an alarm when the pause is over.
        (AlarmRule(cool_down=4), "070007777700", [(1, 3, 0.7), (5, 11, 0.7)]),
        (AlarmRule(2, 3, cool_down=0), "0700070000", []),
        (AlarmRule(2, 3, cool_down=0), "0706000", [(1, 5, 0.7)]),
        (AlarmRule(least_seconds=4, cool_down=0), "0770000777700", [(7, 12, 0.7)]),
    ],
)
def test_alarm_is_made_of_enough_windows(
    rule: AlarmRule, probabilities: str, expected: list[tuple]
) -> None:
    assert alarms_of(rule, probabilities) == expected


def test_in_quiet_hours_there_is_no_alarm() -> None:
    rule = AlarmRule(quiet=(parse_hours("11:00-13:00"),))
    assert alarms_of(rule, "0990") == []
    assert len(alarms_of(rule, "0990", NOON.replace(hour=13))) == 1


@pytest.mark.parametrize(
    ("hours", "moment", "expected"),
    [
        ("22:00-06:00", "2026-11-30T23:00", True),
        ("22:00-06:00", "2026-11-30T05:59", True),
        ("22:00-06:00", "2026-11-30T06:00", False),
        ("mon-fri 18:00-06:00", "2026-12-05T05:00", True),  # Saturday, since Friday evening
        ("mon-fri 18:00-06:00", "2026-12-05T19:00", False),
        ("mon-fri 18:00-06:00", "2026-11-30T05:00", False),  # Monday, since Sunday evening
        ("sat,sun 08:00-20:00", "2026-12-06T12:00", True),
        ("fri-mon 08:00-20:00", "2026-12-01T12:00", False),
    ],
)
def test_hours_may_last_over_midnight(hours: str, moment: str, expected: bool) -> None:
    assert is_within(datetime.fromisoformat(moment), [parse_hours(hours)]) == expected
