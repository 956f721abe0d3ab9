"""Four courses of events go as they went when somebody last read them (see `golden_traces`)."""

import pytest

from tests.simulation.golden_traces import COURSES, FOLDER, trace


@pytest.mark.parametrize("name", COURSES)
def test_the_course_is_the_golden_one(name: str) -> None:
    expected = (FOLDER / f"{name}.txt").read_text()
    assert trace(name) == expected, (
        "the course has changed: if that is meant, run `python -m tests.simulation.golden_traces`"
    )
